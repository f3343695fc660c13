"""Cells with several runs: which are explained, and what the warning names where none is."""

import numpy as np
import pandas as pd
import pytest

from analysis.table.load import check_table, keep_rows
from analysis.table.merged import _codes, find_merged, varying_cells

SIZES = [1e6, 2e6, 4e6, 8e6]


def table(*variants, **columns):
    """Four sizes of one budget for each variant, a dict of its columns."""
    rows = [
        {"budget": 6e15, "n_params": N, "n_tokens": 1e15 / N, "loss": 4 + i / 10 + k / 100}
        | columns
        | variant
        for k, variant in enumerate(variants)
        for i, N in enumerate(SIZES)
    ]
    return check_table(pd.DataFrame(rows))


def merged(*variants, **columns):
    return find_merged(table(*variants, **columns))


def test_a_run_a_cell_merges_nothing():
    assert merged({}) is None
    assert table({}).attrs["warnings"] == ()


def test_seeds_and_learning_rates_explain_runs():
    rates = [{"lr": lr, "seed": seed} for lr in (1e-3, 2e-3) for seed in (0, 1)]
    assert merged(*rates) is None
    assert merged({"seed": 0}, {"seed": 1}) is None
    assert merged({"lr": 1e-3}, {"lr": 2e-3}) is None


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("dataset", ("c4", "pile")),
        ("router_type", ("Hash", "S-Base")),
        ("loss_unit", ("nats", "bits")),
        ("bs", (512, 1024)),
        ("weight_decay", (0.0, 0.1)),
        ("sweep", ("a", "b")),
        ("tied", (True, False)),
    ],
)
@pytest.mark.parametrize("known", [{}, {"lr": 1e-3, "seed": 0}])
def test_a_column_that_differs_is_named(column, values, known):
    found = merged(*({column: value} for value in values), **known)
    assert (found.columns, found.n_cells, found.n_open) == ((column,), 4, 0)
    assert found.how == f"lowest over {column}"
    (warning,) = table(*({column: value} for value in values), **known).attrs["warnings"]
    assert warning == (
        "4 cells (e.g. model budget=6e+15 n_params=1e+06) have several runs that seed and "
        f"learning rate do not explain: they differ in {column}, and the lowest loss counts; "
        f"series=['{column}'] makes each a curve, where={{'{column}': ['VALUE']}} takes one"
    )


def test_what_a_run_found_is_no_setting():
    results = [
        {"core_score": 0.1, "train_loss": 4.0, "Name": "a"},
        {"core_score": 0.2, "Name": "b"},
    ]
    found = merged(*results)
    assert found.columns == ()
    assert found.how == "lowest over runs that no column distinguishes"
    assert "nor does any other column: the lowest loss counts" in found.text


def test_a_text_that_learning_rates_hide_is_named():
    """Each dataset was tuned: no cell has two runs of one rate, yet its best is of two datasets."""
    runs = [
        {"lr": lr, "dataset": "c4" if (i + k) % 2 else "pile"}
        for k in range(1)
        for i, lr in enumerate((1e-3, 2e-3))
    ]
    assert merged(*runs) is None  # each rate is of one dataset: it may be what was tuned
    frame = table(*runs)
    swapped = frame["n_params"] > 2e6
    other = {"c4": "pile", "pile": "c4"}
    frame.loc[swapped, "dataset"] = frame.loc[swapped, "dataset"].map(other)
    assert find_merged(frame).columns == ("dataset",)


def test_a_mean_over_seeds_of_two_datasets_is_called_that():
    frame = table({"seed": 0, "dataset": "c4"}, {"seed": 1, "dataset": "pile"})
    assert find_merged(frame) is None  # one with the seed: it may be its name
    swapped = frame["n_params"] > 2e6
    other = {"c4": "pile", "pile": "c4"}
    frame.loc[swapped, "dataset"] = frame.loc[swapped, "dataset"].map(other)
    found = find_merged(frame)
    assert found.columns == ("dataset",)
    assert found.how == "mean or lowest over dataset"
    assert "in dataset, and the mean over seeds, or the lowest loss counts; series=" in found.text


def test_a_name_of_the_seed_is_explained_by_it():
    assert merged({"seed": 0, "tag": "first"}, {"seed": 1, "tag": "second"}) is None


def test_the_fewest_columns_explain_all_cells():
    found = merged(
        {"dataset": "c4", "tokenizer": "x", "bs": 1},
        {"dataset": "pile", "tokenizer": "y", "bs": 1},
        {"dataset": "pile", "tokenizer": "y", "bs": 2},
    )
    assert found.columns == ("dataset",)


def test_models_and_variants_stay_in_the_proposed_series():
    rows = [
        {"model": model, "dataset": data} for model in ("dense", "moe") for data in ("c4", "pile")
    ]
    assert merged(*rows).series == ("model", "dataset")
    named = check_table(table(*rows), series=["model", "dataset"])
    assert find_merged(named) is None
    assert named.attrs["warnings"] == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_column_varies_where_its_texts_do(seed):
    rng = np.random.default_rng(seed)
    cells = pd.Series(rng.integers(0, 30, 90))
    for values in (
        pd.Series(rng.choice([1.5, 2.0, np.nan], 90)),
        pd.Series(rng.choice([1, 2], 90)).astype("Int64").where(cells % 4 > 0),
        pd.Series(rng.choice(np.array(["a", "b", None], dtype=object), 90)),
        pd.Series(rng.choice(np.array([True, False]), 90)),
        pd.Series([[1], [1, 2]] * 45),
    ):
        texts = values.astype(str).where(values.notna())
        several = {c for c in range(30) if texts[cells == c].nunique() > 1}
        assert varying_cells(_codes(values), cells, cells) == several
        assert _codes(values).nunique() == texts.nunique()


def test_a_filter_takes_the_warning_away_or_leaves_it():
    both = table({"dataset": "c4"}, {"dataset": "pile"})
    assert keep_rows(both, {"dataset": ["c4"]}).attrs["warnings"] == ()
    assert len(keep_rows(both, {"dataset": ["c4", "pile"]}).attrs["warnings"]) == 1
    assert len(both.attrs["warnings"]) == 1


def test_without_budgets_a_cell_is_of_tokens():
    frame = pd.DataFrame(
        {"N": [1e6, 1e6, 2e6], "D": [1e9, 1e9, 1e9], "loss": [4, 4.1, 3.9], "bs": [1, 2, 1]}
    )
    found = find_merged(check_table(pd.concat([frame, frame.assign(loss=frame["loss"] + 1)])))
    assert found.columns == ("bs",)
    assert "n_tokens=1e+09 n_params=1e+06" in found.first


def test_failed_runs_are_in_no_cell():
    assert merged({"dataset": "c4"}, {"dataset": "pile", "status": "failed"}) is None
