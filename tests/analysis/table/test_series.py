"""What names a curve: columns that were asked for, or a model, and never its size."""

import re

import pandas as pd
import pytest

from analysis.table.load import check_table, keep_rows
from tests.analysis.hand_made import runs

SIZES = [1.3e8, 3e8, 1.1e9]


def ladder(names, sizes=SIZES, budgets=(1e18, 4e18)):
    """A run of each model at each budget, as a table of sizes has them."""
    rows = [
        {"model": name, "budget": C, "n_params": N, "n_tokens": C / 6 / N, "loss": 3 + N / 1e10}
        for C in budgets
        for name, N in zip(names, sizes, strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("columns", "by", "series"),
    [
        (
            {"dataset": ["c4", "c4", "pile"], "condition": ["a", "b", "a"], "model": "llama"},
            ["dataset", "condition"],
            ["c4 a", "c4 b", "pile a"],
        ),
        (  # a number has its column's name, and nothing is left out
            {"dataset": ["c4", None, None], "bs": [512, 1024.0, None]},
            ["dataset", "bs"],
            ["c4 bs=512", "bs=1024", "none"],
        ),
        # by our name or theirs
        *(
            ({"num_experts": [1, 4, 4]}, [name], [f"{name}={n}" for n in (1, 4, 4)])
            for name in ("num_experts", "n_experts")
        ),
        ({"model": ["a", "b", "c"], "n_experts": [1, 2, 4]}, [], ["all"] * 3),
    ],
)
def test_columns_that_are_asked_for_name_the_series(columns, by, series):
    table = check_table(runs(**columns), series=by)
    assert table["series"].tolist() == series
    assert by or set(keep_rows(table, {"model": ["a", "b"]})["series"]) == {"all"}


# Models that are sizes


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["llama-130m", "llama-300m", "llama-1.1b"], "llama"),
        (["llama_130M_base", "llama_300M_base", "llama_1.1B_base"], "llama_base"),
        (["130m", "300m", "1b"], "model"),
        (["d512", "d768", "d1536"], "model"),
        (["d512-l8", "d768-l8", "d768-l24"], "model"),
        (["gpt depth=8", "gpt depth=12", "gpt depth=24"], "gpt"),
    ],
)
def test_models_whose_names_are_sizes_are_one(names, family):
    table = check_table(ladder(names))
    assert set(table["model"]) == set(table["series"]) == {family}
    assert set(table["given_model"]) == set(names)
    note = next(note for note in table.attrs["notes"] if note.startswith("model names sizes"))
    assert f"these runs are one model, {family}; the names are kept as given_model" in note
    pd.testing.assert_frame_equal(check_table(table), table)
    given = check_table(ladder(names), series=["model"])
    assert set(given["series"]) == set(names)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["dense", "moe", "peer"], "no number"),
        (["peer-4k", "peer-64k", "peer-1m"], "numbers of experts: far from the parameters"),
        (["llama-1.1b", "llama-300m", "llama-130m"], "in another order"),
        (["llama-130m", "llama-300m", "other"], "two sizes make no curve"),
        (["d768", "d768-new", "d768-old"], "one width"),
        (["moe-8x7b", "moe-8x13b", "moe-8x30b"], "a product"),
    ],
)
def test_other_names_stay(names, why):
    table = check_table(ladder(names))
    assert set(table["model"]) == set(names), why
    assert "given_model" not in table


def test_a_name_with_several_sizes_is_no_size():
    frame = pd.concat(
        [ladder(["d512", "d768", "d1024"]), ladder(["d512", "d768", "d1024"], [1e9] * 3)]
    )
    assert set(check_table(frame)["model"]) == {"d512", "d768", "d1024"}


def test_two_families_stay_two():
    frame = pd.concat([ladder([f"{f}-130m", f"{f}-300m", f"{f}-1b"]) for f in ("llama", "mamba")])
    frame["loss"] += [0.0] * 6 + [0.1] * 6
    table = check_table(frame)
    assert set(table["series"]) == {"llama", "mamba"}
    assert len([n for n in table.attrs["notes"] if n.startswith("model names")]) == 2
    assert re.search(r"llama-130m, llama-300m, and 1 more", " ".join(table.attrs["notes"]))


def test_experts_in_proportion_to_the_width_are_one_series():
    frame = runs(
        model=["peer"] * 3, d_model=[48, 64, 80], num_experts=[256 * 48, 256 * 64, 256 * 80]
    )
    assert check_table(frame)["series"].tolist() == ["peer"] * 3
    other = check_table(frame.assign(num_experts=[256 * 48, 256 * 64, 128 * 80]))
    assert other["series"].nunique() == 3
