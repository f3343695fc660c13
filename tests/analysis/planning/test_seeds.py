"""Seeds for a half-width, against integrals, layouts and rules written out here."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from analysis import FitError, check_table, seed_power
from analysis.__main__ import main
from analysis.planning.half_widths import detectable, half_width, seeds_by_stein, seeds_planned
from analysis.planning.pair_noise import pool_noise
from analysis.planning.pairs import find_blocks
from tests.analysis.planning.simulated_seeds import ALIKE, Way, coverage


def runs(losses, budget=1e12, n_layers=2, seeds=None, **more):
    """losses: model -> those of seeds 0, 1, ..."""
    return [
        {
            "model": model, "budget": budget, "n_layers": n_layers, "d_model": 32 * n_layers,
            "n_params": 1e6 * n_layers * (1 + (model != "dense")), "seed": seed, "loss": loss,
            "n_tokens": budget / 6e6, "lr": 1e-2, **more,
        }
        for model, of in losses.items()
        for seed, loss in zip(seeds or range(len(of)), of)
    ]  # fmt: skip


def table(*parts):
    return check_table(pd.DataFrame([row for part in parts for row in part]))


@pytest.fixture
def two():
    """Two models beside dense at two budgets, four seeds each; a third has one seed."""
    rng = np.random.default_rng(0)
    parts = []
    for budget, level in ((1e12, 4.0), (1e13, 3.5)):
        losses = {m: level + 0.02 * rng.standard_normal(4) for m in ("dense", "moe", "peer")}
        parts.append(runs({**losses, "pkm": [level]}, budget))
    return table(*parts)


def test_a_half_width_is_student_s_and_a_planned_number_reaches_it():
    half = half_width(0.03, 8, 5, 0.9)
    assert half == pytest.approx(stats.t.ppf(0.95, 8) * 0.03 / math.sqrt(5), rel=1e-12)
    for n_free in (1, 5):
        k = seeds_planned(0.03, n_free, 0.015, 0.95)
        assert half_width(0.03, (k - 1) * n_free, k, 0.95) <= 0.015
        assert half_width(0.03, (k - 2) * n_free, k - 1, 0.95) > 0.015
    assert seeds_planned(1.0, 1, 0.01, 0.95) == math.ceil((stats.norm.ppf(0.975) * 100) ** 2)
    assert seeds_planned(1.0, 1, 1e-4, 0.95) is None
    n = seeds_by_stein(0.03, 6, 0.015, 0.95)
    assert n == math.ceil((stats.t.ppf(0.975, 6) * 0.03 / 0.015) ** 2)
    assert seeds_by_stein(0.03, 6, half_width(0.03, 6, 9, 0.95), 0.95) == 9
    assert seeds_by_stein(1.0, 6, 1e-4, 0.95) is None
    assert seeds_by_stein(float("nan"), 0, 1e-4, 0.95) is None
    for tiny in (1e-160, 1e-300, 5e-324):  # the square of what they need is no float
        assert seeds_planned(1.0, 1, tiny, 0.95) is None
        assert seeds_by_stein(1.0, 6, tiny, 0.95) is None
    assert seeds_by_stein(1.0, 6, 1.0, 1 - 1e-9) is not None


@pytest.mark.parametrize(("dof", "n"), [(1, 2), (2, 3), (10, 3), (30, 12)])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_a_detectable_difference_has_its_power(dof, n, power):
    """By the integral over the noise's estimate of the chance that the test rejects."""
    away = detectable(0.02, dof, n, power, 0.05) * math.sqrt(n) / 0.02
    t = stats.t.ppf(0.975, dof)

    def rejects(q):  # q: the chance of a smaller estimate, which the integral is over
        s = math.sqrt(stats.chi2.ppf(q, dof) / dof)
        return stats.norm.sf(t * s - away) + stats.norm.cdf(-t * s - away)

    found = integrate.quad(rejects, 0, 1, limit=200, epsabs=1e-9)[0]
    assert found == pytest.approx(power, abs=1e-6)  # quad's own error; the root is good to 1e-9


def test_noise_of_all_cells_is_that_of_the_two_way_layout(two):
    blocks = find_blocks(two[two["model"] != "pkm"], "dense")
    noise = pool_noise(blocks, "dense", "all").noises["moe", 0]
    squares = 0.0
    for _, own in two[two["model"] != "pkm"].groupby("budget"):
        losses = own.pivot_table(index="seed", columns="model", values="loss").to_numpy()
        by_model, by_seed = losses.mean(axis=0), losses.mean(axis=1, keepdims=True)
        squares += ((losses - by_model - by_seed + losses.mean()) ** 2).sum()
    assert (noise.dof, noise.n_cells, noise.n_free) == (2 * 2 * 3, 4, 4)
    # rounding of losses near 4 in residuals of .02: 1e-14
    assert noise.sd == pytest.approx(math.sqrt(2 * squares / 12), rel=1e-9)


def test_noise_of_a_cell_is_that_of_its_differences_and_seeds_may_be_missing(two):
    short = two[~((two["model"] == "peer") & (two["seed"] == 2))]
    found = seed_power(short, target=0.01, pool="cell")
    for cell in found.cells:
        own = short[(short["budget"] == cell.budget)].set_index(["model", "seed"])["loss"]
        d = (own[cell.model] - own["dense"]).dropna()
        assert cell.n_pairs == len(d) == (3 if cell.model == "peer" else 4)
        assert cell.difference.value == pytest.approx(d.mean(), abs=1e-12)
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
        assert cell.half_width == pytest.approx(half, rel=1e-9)
    by_model = seed_power(two, target=0.01, pool="model").cells
    for cell in by_model:
        assert cell.noise.dof == 6
        squares = sum(
            3 * other.noise.sd**2
            for other in seed_power(two, target=0.01, pool="cell").cells
            if other.model == cell.model
        )
        assert cell.noise.sd == pytest.approx(math.sqrt(squares / 6), rel=1e-9)


def test_what_all_runs_of_a_seed_share_is_no_noise(two):
    moved = two.assign(loss=two["loss"] + 0.5 * two["seed"].astype(float))
    for pool in ("all", "model", "budget", "cell"):
        at, there = (seed_power(one, target=0.01, pool=pool) for one in (two, moved))
        assert [c.half_width for c in there.cells] == pytest.approx(
            [c.half_width for c in at.cells], rel=1e-9
        )


def test_runs_and_flops_that_are_missing_count_the_baseline_once(two):
    found = seed_power(two, target=0.01, pool="budget")
    for cell in found.cells:
        wanted = math.ceil((stats.t.ppf(0.975, 6) * cell.noise.sd / 0.01) ** 2)
        assert cell.needed == max(wanted, 4)
        assert cell.runs == 2 * (cell.needed - 4)
        assert cell.flops == cell.runs * cell.budget
    by_budget = {cell.budget: cell.needed - 4 for cell in found.cells}
    assert found.n_runs == sum(3 * more for more in by_budget.values())  # two models and dense
    assert found.flops == sum(3 * more * budget for budget, more in by_budget.items())
    wide = seed_power(two, target=1.0)
    assert len(wide.reached) == 4
    assert "4 of 4 cells have it: stop" in wide.summary()


def test_a_pilot_s_noise_is_of_its_seeds_alone(two):
    pilot = two[(two["seed"] < 3) & (two["model"] != "pkm")]
    at, all_ = seed_power(pilot, target=0.01, pool="all"), seed_power(two, target=0.01, pilot=3)
    assert all_.cells[0].noise.dof == 8
    for before, after in zip(at.cells, all_.cells, strict=True):
        assert after.noise.sd == pytest.approx(before.noise.sd, rel=1e-9)
        assert after.half_width == pytest.approx(before.half_width * math.sqrt(3 / 4), rel=1e-9)


def test_unequal_variances_are_not_pooled():
    rng = np.random.default_rng(1)
    sds = {"dense": 0.002, "moe": 0.1, "peer": 0.002}
    parts = [
        runs({m: 4 + sd * rng.standard_normal(6) for m, sd in sds.items()}, budget)
        for budget in (1e12, 2e12, 3e12)
    ]
    found = seed_power(table(*parts), target=0.01)
    assert found.pool != "all"
    assert found.chances["all"] < 0.001
    assert any("not pooled over all cells" in text for text in found.warnings)
    by_model = seed_power(table(*parts), target=0.01, pool="model")
    assert {noise.of for noise in by_model.noises} == {"moe", "peer"}


def test_the_test_of_equal_variances_is_bartlett_s_where_cells_are_independent():
    """With many seeds its distribution is chi-squared's."""
    rng = np.random.default_rng(3)
    d = [sd * rng.standard_normal(40) for sd in (1.0, 1.1, 1.35)]
    parts = [
        runs({"dense": np.full(40, 4.0), "moe": 4 + 0.01 * of}, budget)
        for budget, of in zip((1e12, 2e12, 3e12), d, strict=True)
    ]
    blocks = find_blocks(table(*parts), "dense")
    chance = pool_noise(blocks, "dense").chances["all"]
    expected = stats.bartlett(*d).pvalue
    assert 0.05 < expected < 0.5
    # four standard errors of 10,000 draws, and chi-squared's own error at 40 seeds
    assert chance == pytest.approx(expected, abs=4 * math.sqrt(expected / 1e4) + 0.005)


def test_equal_variances_are_rejected_as_often_as_the_test_says():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(60):
        parts = [
            runs({m: 4 + 0.01 * rng.standard_normal(3) for m in ("dense", "a", "b", "c")}, budget)
            for budget in (1e12, 2e12)
        ]
        frame = pd.DataFrame([row for part in parts for row in part])
        frame = frame.assign(status="done", series=frame["model"])
        found.append(pool_noise(find_blocks(frame, "dense"), "dense").chances["all"])
    # binomial: 6 of 60 rejected, with a standard deviation of 2.3
    assert sum(chance < 0.1 for chance in found) <= 15
    assert stats.kstest(found, "uniform").pvalue > 1e-3


def test_intervals_at_the_stop_hold_as_they_say_with_a_pilot():
    """And less often where each look has the noise of all seeds, as the documents say."""
    draws = 150
    pilot = coverage(Way(ALIKE[:2], 1, 1.2, 3, "all"), draws, first=0)
    # four binomial standard errors below, of .95
    assert pilot["coverage"] >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / draws)


@pytest.mark.night
def test_coverage_at_the_stop_over_many_draws():
    for sds, n_blocks, target in ((ALIKE[:2], 1, 1.2), (ALIKE[:2], 1, 0.6), (ALIKE, 3, 0.6)):
        draws = 1000 // n_blocks
        pilot = coverage(Way(sds, n_blocks, target, 3, "all"), draws)
        every = coverage(Way(sds, n_blocks, target, None, "all"), draws)
        # cells of a table share runs: by tables, four binomial standard errors
        assert pilot["coverage"] >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / draws)
        assert pilot["seeds"] > every["seeds"]
        if n_blocks == 1:  # looks at three to some twenty seeds, each a chance to stop too early
            assert every["coverage"] < 0.94


def test_the_command_prints_seeds_powers_and_cells(two, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    two.to_csv(path, index=False)
    assert main(["plan", str(path), "--half-width", "0.015", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["pool"], found["left_out"], len(found["cells"])) == ("all", 2, 4)
    assert len(found["by_seeds"]) == 11
    assert main(["plan", str(path), "--half-width", "0.015", "--level", "0.9"]) == 0
    text = capsys.readouterr().out
    assert "90% intervals" in text
    assert "2 cells with one pair left out" in text
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    help_ = " ".join(capsys.readouterr().out.split())
    assert "never by the sign of its difference" in help_


def test_what_can_t_be_is_one_line(two):
    with pytest.raises(ValueError, match=r"target=-1\.0 must be finite and above 0"):
        seed_power(two, target=-1)
    with pytest.raises(ValueError, match="pilot=1 must be 2 or more"):
        seed_power(two, target=1, pilot=1)
    with pytest.raises(ValueError, match="pool='size' is not one of all, model"):
        seed_power(two, target=1, pool="size")
    with pytest.raises(
        ValueError, match="baseline='none' has no finished run; the table has dense"
    ):
        seed_power(two, "none", target=1)
    with pytest.raises(FitError, match="no model has two seeds or more beside dense at equal"):
        seed_power(two[two["seed"] == 0], target=1)
    apart = two[(two["model"] == "dense") ^ (two["seed"] > 1)]
    with pytest.raises(FitError, match="no model has a run of dense's seed at equal FLOPs"):
        seed_power(apart, target=1)
    far = seed_power(two, target=1e-6)
    assert far.cells[0].needed is None
    assert any("more than 100,000 seeds: take a wider half-width" in w for w in far.warnings)


def test_a_test_of_unlike_noise_does_not_depend_on_its_size(two):
    small = two.assign(loss=4 + 1e-4 * (two["loss"] - 4))  # noise of 2e-6 nats
    chances = [
        pool_noise(find_blocks(one[one["model"] != "pkm"], "dense"), "dense", None).chances
        for one in (two, small)
    ]
    assert chances[0]
    assert chances[1] == pytest.approx(chances[0])


def test_noise_that_differs_by_budget_alone_is_pooled_over_budgets():
    rng, parts = np.random.default_rng(1), []
    for budget, sd in ((1e12, 1e-4), (1e13, 0.1)):
        losses = {m: 4 + sd * rng.standard_normal(8) for m in ("dense", "moe", "peer", "pkm")}
        parts.append(runs(losses, budget))
    assert seed_power(table(*parts), target=0.01).pool == "budget"


def test_cells_with_one_pair_are_counted(two):
    found = seed_power(two, target=0.01)
    assert found.left_out == 2
    assert "2 cells with one pair left out" in found.warnings
