"""How far differences move at the best rates, beside numpy's parabolas."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.fitting.status import FitError
from analysis.rates.fit import fit_rates
from analysis.rates.moves import compare_rates
from analysis.table.load import check_table
from tests.analysis.rates.made import GRID, tuned

BEST = {"dense": 0.01, "peer": 0.02, "pkm": 0.005}


def search(noise=0.0, budget=1e18):
    """Five rates about the best of each model."""
    rng = np.random.default_rng(3)
    parts = [
        tuned(lr, 0.01 * GRID[::2], noise, rng, model=model, budget=budget)
        for model, lr in BEST.items()
    ]
    return pd.concat(parts, ignore_index=True)


def by_parabolas(frame, **how):
    return fit_rates(check_table(frame), method="parabola", **how)


def runs_at(lr, budget=1e18, seeds=(0,), **columns):
    """Runs of all three models at one rate, by the same parabolas."""
    parts = [
        tuned(best, [lr], model=model, budget=budget, seed=seed, **columns)
        for model, best in BEST.items()
        for seed in seeds
    ]
    return check_table(pd.concat(parts, ignore_index=True))


def test_a_gain_is_that_of_the_parabola_and_a_difference_moves_by_two_of_them():
    found = compare_rates(by_parabolas(search()), runs_at(0.012))
    gains = {gain.cell.model: gain for gain in found.gains}
    expected = {model: 0.05 * np.log(0.012 / lr) ** 2 for model, lr in BEST.items()}
    for model, gain in gains.items():
        assert gain.gain == pytest.approx(expected[model], abs=1e-12)
        assert gain.lr == 0.012
        assert gain.loss == pytest.approx(3 + expected[model])
    assert len(found.moves) == 3  # all pairs
    for move in found.moves:
        assert move.difference == pytest.approx(expected[move.model] - expected[move.other])
        # all three are equally good at their own best rates
        assert move.difference + move.moved_by == pytest.approx(0, abs=1e-12)
    # by .0114 (dense and peer), .0253 and .0366
    assert len(found.far) == 3
    wide = compare_rates(by_parabolas(search()), runs_at(0.012), more_than=0.02)
    assert {frozenset((m.model, m.other)) for m in wide.far} == {
        frozenset(("dense", "pkm")),
        frozenset(("peer", "pkm")),
    }


def test_of_a_baseline_the_others_are_compared_with_it():
    found = compare_rates(by_parabolas(search()), runs_at(0.012), baseline="pkm")
    assert [(move.model, move.other) for move in found.moves] == [("dense", "pkm"), ("peer", "pkm")]
    noisy = by_parabolas(search(noise=0.004), noise=0.004)
    found = compare_rates(noisy, runs_at(0.012), baseline="pkm")
    by_pairs = compare_rates(noisy, runs_at(0.012))
    turned = {(m.model, m.other): m for m in by_pairs.moves}[("pkm", "dense")]
    assert found.moves[0].moved_by == pytest.approx(-turned.moved_by)
    assert found.moves[0].difference == pytest.approx(-turned.difference)
    assert found.moves[0].interval == pytest.approx((-turned.interval[1], -turned.interval[0]))
    assert turned.interval[1] - turned.interval[0] > 0.001
    with pytest.raises(ValueError, match=r"baseline='moe' is no model of these cells; found dense"):
        compare_rates(by_parabolas(search()), runs_at(0.012), baseline="moe")


def test_an_interval_is_of_losses_drawn_again_and_parabolas_fitted_again():
    """Of numpy's polyfit, a draw at a time."""
    rates = by_parabolas(search(noise=0.004), noise=0.004)
    found = compare_rates(rates, runs_at(0.012))
    (dense,) = (gain for gain in found.gains if gain.cell.model == "dense")
    u, losses = np.log(dense.cell.lrs), np.array(dense.cell.losses)
    rng, gains = np.random.default_rng(1), []
    for _ in range(2000):
        curve = np.polyfit(u, losses + rng.normal(0, 0.004, len(u)), 2)
        ends = [u[0], u[-1], np.log(0.012)]
        vertex = -curve[1] / (2 * curve[0])
        places = [*ends, vertex] if curve[0] > 0 and u[0] < vertex < u[-1] else ends
        gains.append(np.polyval(curve, np.log(0.012)) - min(np.polyval(curve, places)))
    assert dense.interval == pytest.approx(np.quantile(gains, [0.025, 0.975]), abs=4e-4)
    assert all(gain.interval[0] >= 0 for gain in found.gains)


def test_a_move_s_interval_is_of_the_difference_of_two_gains():
    """Each drawn by itself: its width is the root of the sum of their squares. Of little noise, so
    that both are normally distributed, and the middle is what the difference moves by.
    """
    rates = by_parabolas(search(), noise=3e-4)
    found = compare_rates(rates, runs_at(0.012))
    gains = {gain.cell.model: gain for gain in found.gains}
    assert len(found.moves) == 3
    for move in found.moves:
        one, other = gains[move.model], gains[move.other]
        low, high = move.interval
        assert move.moved_by == pytest.approx(other.gain - one.gain)
        widths = [np.ptp(gain.interval) for gain in (one, other)]
        # of 2,000 draws a quantile's place is known to 4 % of the width
        assert high - low == pytest.approx(np.hypot(*widths), rel=0.08)
        assert (low + high) / 2 == pytest.approx(move.moved_by, abs=0.08 * (high - low))
        assert abs(move.moved_by) > 2 * (high - low)


def test_without_a_noise_there_are_no_intervals():
    three = search()[lambda runs: runs["lr"].isin(0.01 * GRID[[2, 4, 6]])]
    found = compare_rates(fit_rates(check_table(three)), runs_at(0.012))
    assert all(np.isnan(gain.interval).all() for gain in found.gains)
    assert all(np.isnan(move.interval).all() for move in found.moves)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("best", "edge"), [(0.1, 0.04), (0.001, 0.0025)])
def test_a_best_rate_at_the_edge_gains_what_the_edge_does(best, edge):
    """The parabola is not followed beyond the rates tried."""
    one = tuned(best, 0.01 * GRID, model="dense", budget=1e18)
    used = check_table(tuned(best, [0.01], model="dense", budget=1e18))
    (gain,) = compare_rates(by_parabolas(one), used).gains
    at = [0.05 * np.log(lr / best) ** 2 for lr in (0.01, edge)]
    assert gain.gain == pytest.approx(at[0] - at[1], abs=1e-12)


def test_what_is_not_compared_is_named():
    rates = fit_rates(check_table(pd.concat([search(), search(budget=3e18)])))
    found = compare_rates(rates, runs_at(0.012))
    assert len(found.gains) == 3
    assert "dense C=3e18: no run of the other table" in found.warnings[-1]
    with pytest.raises(FitError, match=r"no cell to compare: dense.*0.1, is outside of"):
        compare_rates(by_parabolas(search()), runs_at(0.1))
    # tried, but not among those that the parabola is of: it says nothing of that rate
    three = by_parabolas(search(), n_nearest=3)
    at = 0.01 * GRID[::2]
    found = compare_rates(three, runs_at(at[0]))
    assert {gain.cell.model for gain in found.gains} == {
        model for model, best in BEST.items() if abs(np.log(at / best)).argsort()[:3].min() == 0
    }
    assert "is outside of the 3 that the parabola is of" in found.warnings[-1]


def test_without_budgets_cells_are_matched_by_length():
    def of(frame):
        return check_table(frame.drop(columns="budget"))

    rates = fit_rates(of(pd.concat([search(), search().assign(n_tokens=2e9)])))
    found = compare_rates(rates, runs_at(0.012, n_tokens=2e9).assign(budget=np.nan))
    assert len(found.gains) == 3
    assert {gain.cell.at["n_tokens"] for gain in found.gains} == {2e9}
    assert len(found.moves) == 3


def test_the_command_has_the_table_and_the_json(tmp_path, monkeypatch, capsys):
    search(0.0002).to_csv(tmp_path / "search.csv", index=False)
    runs_at(0.012, seeds=(0, 1)).to_csv(tmp_path / "used.csv", index=False)
    words = ["rates", str(tmp_path / "search.csv"), "--used", str(tmp_path / "used.csv")]
    monkeypatch.setattr("sys.argv", ["analysis", *words, "--baseline", "dense"])
    main()
    out = capsys.readouterr().out
    assert "what the best rate of each gains over the one used" in out
    assert "2 of 2 differences move by more than 0.01 nats" in out
    written = json.loads((tmp_path / "search-analysis/rates.json").read_text())
    assert len(written["moves"]["moves"]) == 2
