"""Best of a cell: over seeds the mean, over learning rates the best, never their mean."""

import math
import statistics

import numpy as np
import pandas as pd
import pytest

from analysis.table.load import best_of_cells, check_table


def table_of(rows, **shared):
    """rows: (lr, seed, loss) of runs in one cell, unless shared columns tell them apart."""
    lrs, seeds, losses = zip(*rows)
    columns = {"n_params": 1e6, "lr": lrs, "seed": seeds, "loss": losses, "x": range(len(rows))}
    return check_table(pd.DataFrame({**columns, **shared}))


def best(rows, **shared):
    (cell,) = best_of_cells(table_of(rows, **shared), ["n_params"]).to_dict("records")
    return cell


NAN = math.nan


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (  # over seeds the mean
            [(1e-3, 0, 4.0), (1e-3, 1, 4.2), (1e-3, 2, 4.4)],
            {"loss": 4.2, "loss_sd": 0.2, "n_seeds": 3, "n_runs": 3, "perplexity": math.exp(4.2)},
        ),
        (  # over learning rates the best, never the mean
            [(1e-3, 0, 4.4), (2e-3, 0, 4.0), (4e-3, 0, 9.0)],
            {"loss": 4.0, "lr": 2e-3, "n_runs": 3, "n_seeds": 1, "loss_sd": NAN},
        ),
        (  # one lucky seed does not make a learning rate
            [(1e-3, 0, 3.9), (1e-3, 1, 4.5), (2e-3, 0, 4.0), (2e-3, 1, 4.1)],
            {"lr": 2e-3, "loss": 4.05},
        ),
        # seeds of an unknown learning rate are seeds
        ([(None, 0, 4.0), (None, 1, 4.2)], {"loss": 4.1, "n_seeds": 2}),
        # runs that seeds do not tell apart differ in what was tuned
        *(
            (
                [(lr, one, 4.0), (lr, other, 4.2)],
                {"loss": 4.0, "n_seeds": 1, "n_runs": 2, "loss_sd": NAN},
            )
            for one, other in ((0, 0), (None, None), (0, None))
            for lr in (None, 1e-3)
        ),
    ],
)
def test_the_best_of_a_cell(rows, expected):
    cell = best(rows)
    assert {name: cell[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_the_other_columns_are_those_of_the_best_run():
    cell = best([(1e-3, 0, 4.2), (1e-3, 1, 4.0)], colour=["red", "blue"], train_loss=[3.0, 2.0])
    assert (cell["seed"], cell["x"], cell["colour"], cell["train_loss"]) == (1, 1, "blue", 2.0)
    # a gap stays a gap: pandas' first() and last() would take the other run's
    assert math.isnan(best([(1e-3, 0, 4.0), (1e-3, 1, 4.2)], usage=[None, 0.5])["usage"])


@pytest.mark.parametrize(
    ("losses", "at_edge"),
    [((4.0, 4.1, 4.2), True), ((4.2, 4.1, 4.0), True), ((4.1, 4.0, 4.1), False)],
)
def test_a_best_learning_rate_at_the_edge_is_reported(losses, at_edge):
    rows = [(1e-3 * 2**i, 0, loss) for i, loss in enumerate(losses)]
    assert best(rows)["lr_at_edge"] == at_edge
    assert not best(rows[:2])["lr_at_edge"]  # two have no middle


def test_a_learning_rate_that_diverged_was_tried():
    rows = [(1e-3, 0, 4.2), (2e-3, 0, 4.1), (4e-3, 0, 4.0), (8e-3, 0, math.nan)]
    status = ["done", "done", "done"]
    assert not best(rows, status=[*status, "diverged"])["lr_at_edge"]
    assert best(rows, status=[*status, "failed"])["lr_at_edge"]
    assert best(rows, status=[*status, "diverged"])["n_runs"] == 3


def test_failed_runs_make_no_cell():
    table = table_of(
        [(1e-3, 0, 4.0), (1e-3, 0, 1.0), (1e-3, 0, math.nan)],
        n_params=[1e6, 1e6, 2e6],
        status=["done", "failed", "diverged"],
    )
    cells = best_of_cells(table, ["n_params"])
    assert cells["loss"].tolist() == [4.0]


def test_nothing_is_a_value_of_a_cell():
    rows = [(1e-3, 0, 4.0), (2e-3, 0, 4.1), (1e-3, 0, 4.2), (1e-3, 0, 4.3)]
    table = table_of(rows, n_experts=[None, None, 4, 8], query_norm=[None, None, None, "none"])
    cells = best_of_cells(table, ["n_experts", "layer.query_norm"])
    assert sorted(cells["loss"]) == [4.0, 4.2, 4.3]
    assert cells["n_experts"].isna().sum() == 1
    assert str(cells["n_experts"].dtype) == "Int64"


def test_a_hand_made_table_needs_no_learning_rate():
    frame = pd.DataFrame({"n_params": [1e6, 1e6], "loss": [4.2, 4.0], "status": "done"})
    for by in (["n_params"], "n_params"):
        assert best_of_cells(frame, by)["loss"].tolist() == [4.0]


def by_hand(rows, names):
    """Same, run by run."""
    cells = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in names), []).append(row)
    found = {}
    for key, cell in cells.items():
        done = [row for row in cell if row["status"] == "done"]
        if not done:
            continue
        candidates = []
        for lr in {row["lr"] for row in done}:
            at = [row for row in done if row["lr"] == lr]
            seeds = [row["seed"] for row in at]
            losses = [row["loss"] for row in at]
            if None in seeds or len(set(seeds)) < len(seeds):
                losses = [min(losses)]
            sd = statistics.stdev(losses) if len(losses) > 1 else math.nan
            candidates.append((statistics.fmean(losses), lr, sd, len(losses)))
        loss, lr, sd, n_seeds = min(candidates, key=lambda candidate: candidate[0])
        tried = {row["lr"] for row in cell if row["status"] != "failed"} - {None}
        at_edge = len(tried) >= 3 and lr is not None and lr in (min(tried), max(tried))
        found[key] = (loss, lr, sd, n_seeds, len(done), at_edge)
    return found


@pytest.mark.parametrize("number", range(20))
def test_agrees_with_a_loop_over_the_runs(number):
    random = np.random.default_rng(number)
    rows = [
        {
            "model": str(random.choice(["a", "b"])),
            "budget": float(random.choice([1e15, 2e15])),
            "n_params": 1e6,
            "n_experts": [None, 4, 16][random.integers(3)],
            "lr": [None, 1e-3, 2e-3, 4e-3, 8e-3][random.integers(number % 2, 5)],
            "seed": [None, 0, 1, 2, 3, 4][random.integers(number % 3 > 0, 6)],
            "loss": float(random.uniform(2, 5)),
            "status": str(random.choice(["done"] * 8 + ["failed", "diverged"])),
        }
        for _ in range(120)
    ]
    names = ["model", "budget", "n_experts"]
    cells = best_of_cells(check_table(pd.DataFrame(rows)), names)
    columns = ["loss", "lr", "loss_sd", "n_seeds", "n_runs", "lr_at_edge"]
    ours = {
        tuple(None if pd.isna(value) else value for value in row[:3]): row[3:]
        for row in cells[names + columns].itertuples(index=False, name=None)
    }
    expected = by_hand(rows, names)
    assert ours.keys() == expected.keys()
    for key, values in expected.items():
        loss, lr, *rest = ours[key]
        assert (loss, lr if pd.notna(lr) else None) == (pytest.approx(values[0]), values[1])
        assert rest == pytest.approx(list(values[2:]), nan_ok=True)
