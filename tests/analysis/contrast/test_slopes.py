"""How a compute multiplier goes with compute, against lines through refitted curves."""

import numpy as np
import pytest

from analysis import compute_contrasts
from analysis.contrast.compute import contrast_points
from analysis.contrast.settings import Settings
from tests.analysis.contrast import simulated
from tests.analysis.contrast.test_contrast import made

DRAWS = 2000


def lowest(points, losses, weights):
    """layer, budget -> lowest losses (DRAWS,) of curves with one curvature, written out."""
    k = len(points.cells)
    own = np.eye(k)[points.of]
    columns = np.hstack([own, own * points.u[:, None], points.u[:, None] ** 2])
    theta = np.linalg.lstsq(columns * weights[:, None], (losses * weights).T)[0]
    level, slope, bend = theta[:k], theta[k : 2 * k], theta[2 * k]
    return dict(zip(points.cells, level - slope**2 / (4 * bend), strict=True))


def slope_written_out(low, layer, baseline, budgets):
    log_c = np.log(budgets)
    line = np.array([low[baseline, budget] for budget in budgets])
    logs = []
    for b, budget in enumerate(budgets):
        loss = low[layer, budget]
        i = np.where(loss > line[1], 0, 1)  # of the two lines
        at, to = (np.take_along_axis(line, i[None] + step, 0)[0] for step in (0, 1))
        logs.append(log_c[i] + (loss - at) / (to - at) * (log_c[i + 1] - log_c[i]) - log_c[b])
    return np.polyfit(log_c, np.array(logs), 1)[0]


def test_a_slope_is_that_of_a_line_and_its_error_that_of_draws():
    """At six seeds of every size and a tenth of the study's noise, where the first order is exact
    to a hundredth.
    """
    noise = {name: tuple(sd / 10 for sd in sds) for name, sds in simulated.NOISE.items()}
    seeds = ((6, 6, 6, 6),) * 3
    truth = simulated.drawn(simulated.Way(seeds, noise), np.random.default_rng(4))
    points = truth.points
    found = contrast_points(
        points, Settings(baselines=["none"], classes=simulated.CLASSES, errors="seeds")
    )
    sds = {(n.of, n.budget): n.sd for n in found.noises}
    sd = np.array([sds[found.classes[a], b] for a, b in points.cells])[points.of]
    drawn = np.random.default_rng(5).standard_normal((DRAWS, len(sd))) * sd / np.sqrt(points.n)
    weights = 1 / (sd / np.sqrt(points.n))
    assert {one.layer for one in found.slopes} == {"dense", "moe_fine", "pkm", "peer"}
    for one in found.slopes:
        low = lowest(points, points.losses + drawn, weights)
        slopes = slope_written_out(low, one.layer, "none", one.budgets)
        best = slope_written_out(lowest(points, points.losses[None], weights), one.layer, "none",
                                 one.budgets)  # fmt: skip
        assert one.value.value == pytest.approx(best[0], abs=1e-9)
        half = (one.value.upper - one.value.lower) / 2
        # 2,000 draws tell 3 standard errors of 5 %; Student's t of 30 degrees of freedom or more
        assert half / np.std(slopes) == pytest.approx(2.0, rel=0.08)
        assert set(one.multipliers) == set(one.budgets)


def test_a_frontier_that_may_be_level_bounds_no_slope():
    table = made(np.random.default_rng(2), sd=0.05)
    flat = table["series"] == "dense"
    table.loc[flat & (table["budget"] == 1e13), "loss"] += 0.28
    found = compute_contrasts(table, layers=["peer"], baselines=["dense"], errors="scatter")
    (one,) = found.slopes
    assert one.value.upper == -one.value.lower == float("inf")
    assert one.p == 1
