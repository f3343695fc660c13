"""Noise of layers: whether it is alike, and what an interval's degrees of freedom are."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from analysis import compute_contrasts
from analysis.contrast.noise import _chance
from tests.analysis.contrast.test_contrast import made


@pytest.mark.parametrize("n_layers", [2, 3, 5])
def test_unlike_layers_are_told_by_bartlett_s_test(n_layers):
    """At two budgets: the statistics of both are added."""
    rng, layers = np.random.default_rng(0), [f"layer{i}" for i in range(n_layers)]
    cells = [(layer, budget) for budget in (1e12, 1e13) for layer in layers]
    losses = [rng.normal(3, 0.01 * (1 + i), 4 + i % 3) for i in range(len(cells))]
    points = SimpleNamespace(
        cells=cells,
        of=np.arange(len(cells)),
        n=np.array([len(own) for own in losses]),
        squares=np.array([own.var() * len(own) for own in losses]),
    )
    each = [losses[:n_layers], losses[n_layers:]]
    total = sum(stats.bartlett(*of).statistic for of in each)
    found = _chance(points, dict.fromkeys(layers, "all"))
    assert found == pytest.approx(stats.chi2.sf(total, 2 * (n_layers - 1)), rel=1e-9)


def test_an_interval_of_one_noise_has_the_noise_s_degrees_of_freedom():
    found = compute_contrasts(
        made(np.random.default_rng(3)), classes={"all": ["dense", "none", "peer"]}
    )
    (dof,) = {noise.dof for noise in found.noises}
    for one in found.differences:
        assert one.dof == pytest.approx(dof, rel=1e-3)  # others weigh next to nothing
