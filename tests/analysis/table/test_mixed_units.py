"""Rows in another unit than others of their table are warned of, and committed tables have none."""

import math
from itertools import product
from pathlib import Path

import pandas as pd
import pytest

from analysis import check_table, load_table
from analysis.__main__ import main
from analysis.table.load import keep_rows

RESULTS = Path(__file__).resolve().parents[3] / "results"


def runs():
    """Two models at three budgets, three sizes and two seeds, by rates that fall with the size."""
    rows = [
        {
            "model": model,
            "budget": budget,
            "n_params": size,
            "n_tokens": budget / 6 / size,
            "loss": (4 - gain) * (budget / 1e12) ** -0.05 + 0.05 * math.log(size / best) ** 2,
            "lr": lr * (size / 1e5) ** -0.3,
            "seed": seed,
        }
        for (model, gain), (budget, best), factor, seed in product(
            (("dense", 0.0), ("moe", 0.2)),
            ((1e12, 2e5), (4e12, 4e5), (16e12, 8e5)),
            (0.4, 1, 2.5),
            (0, 1),
        )
        for size, lr in [(best * factor, 0.003)]
    ]
    return pd.DataFrame(rows)


def with_unit(name, rows, factor):
    frame = runs()
    kept = rows(frame)
    return frame.assign(**{name: frame[name].where(~kept, frame[name] * factor)})


def warned(frame):
    return check_table(frame).attrs["warnings"]


BIT = 1 / math.log(2)
CASES = {
    "a model's losses in bits": (
        "loss", lambda f: f["model"] == "moe", BIT,
        "loss of 18 of 36 runs (e.g. 5.543 of moe budget=1e+12 n_params=8e+04",
        "1.37 times the lowest of the same budget and size",
    ),
    "a seed's losses in bits": (
        "loss", lambda f: (f["seed"] == 1) & (f["model"] == "moe") & (f["budget"] > 1e13), BIT,
        "loss of 3 of 36 runs", "are they in bits? If so, multiply them by ln 2; else leave them",
    ),
    "a budget's losses in bits": (
        "loss", lambda f: f["budget"] == 4e12, BIT,
        "loss of 6 of 36 runs", "1.35 times dense's at the budget below",
    ),
    "a model's rates in milli": (
        "lr", lambda f: f["n_params"] > 7e5, 1e3,
        "lr of", "in thousandths (milli)? Give plain rates",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_rows_in_another_unit_are_named_with_the_factor_and_the_remedy(case):
    name, rows, factor, *words = CASES[case]
    (text,) = warned(with_unit(name, rows, factor))
    assert all(word in text for word in words), text
    assert warned(runs()) == ()


@pytest.mark.parametrize("factor", [1e-6, 1e-9, 1e9])
def test_sizes_in_millions_beside_plain_ones(factor):
    """Without tokens, against which sizes are checked where a table has them."""
    frame = with_unit("n_params", lambda f: f["n_params"] > 1e6, factor)
    (text,) = warned(frame.drop(columns=["budget", "n_tokens", "lr"]).assign(n_experts=1))
    assert text.startswith("n_params of 4 of 36 runs (e.g. ")
    assert "in another unit? Give plain numbers in every row, or leave these out" in text


def test_rows_that_are_left_out_are_not_warned_of():
    table = check_table(with_unit("loss", lambda f: f["model"] == "moe", BIT))
    assert keep_rows(table, {"model": ["dense"]}).attrs["warnings"] == ()


def test_a_rate_that_is_too_high_is_no_unit():
    """Losses of a search for rates reach from the best to half as much again."""
    frame = runs()
    tried = [
        frame.assign(lr=frame["lr"] * 4**k, loss=frame["loss"] * (1 + 0.09 * k)) for k in range(6)
    ]
    assert warned(pd.concat(tried, ignore_index=True)) == ()


def test_two_losses_are_asked_for(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    runs().assign(**{"smooth loss": 3.0}).to_csv(path, index=False)
    assert main(["isoflop", str(path)]) == 2
    error = capsys.readouterr().err
    assert "loss may be any of loss, smooth loss; say which, e.g. --table column.loss=loss" in error
    assert load_table(path, columns={"loss": "smooth loss"})["loss"].eq(3.0).all()
    assert "smooth loss" in load_table(path, columns={"loss": "loss"})
    held_out = runs().assign(**{"smooth loss": 3.0, "val_loss": 2.0})
    assert check_table(held_out)["loss"].eq(2.0).all()


TABLES = [RESULTS / "study/experts/table.csv", RESULTS / "study/isoflop/table.csv"]
SWEEPS = sorted({path.parents[1] for path in RESULTS.rglob("record.json")})
TABLES += [pytest.param(path, marks=pytest.mark.night) for path in SWEEPS]  # 1,200 records


@pytest.mark.parametrize("path", TABLES, ids=lambda path: str(path.relative_to(RESULTS)))
def test_no_committed_table_is_in_two_units(path):
    table = load_table(path)
    assert set(table.attrs["warnings"]) == set(table.attrs["merged"])
