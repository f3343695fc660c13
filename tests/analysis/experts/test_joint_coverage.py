"""Nominal 95 % intervals of the laws in several variables hold the truth, and a new run.

100 repeats each: a share near 0.95 is then known to 0.022, so 0.90 is 2.3 standard errors below it,
and above 0.99 an interval is wide for nothing, as in test_coverage. Seeds are fixed.
"""

import numpy as np
import pytest

from analysis.experts.fit import fit_expert_law
from tests.analysis.expert_laws import JOINT_GRIDS, TRUTHS, joint_runs, power_floor, runs_of

pytestmark = pytest.mark.night
REPEATS = 100
SD = 0.003
PLACES = {  # inside the runs, and beyond the largest
    "joint": [
        {"size": 5e8, "n_experts": 8, "n_tokens": 2e10},
        {"size": 5e9, "n_experts": 16, "n_tokens": 3e11},
    ],
    "granularity_experts": [
        {"size": 5e8, "n_experts": 16, "n_tokens": 2e10, "granularity": 4},
        {"size": 2e10, "n_experts": 32, "n_tokens": 3e11, "granularity": 8},
    ],
}
NAMED = {"joint": ("alpha", "beta", "c"), "granularity_experts": ("alpha", "beta", "delta", "c")}
LETTERS = {"size": "N", "n_experts": "E", "n_tokens": "D", "granularity": "G"}


def shares(form):
    law, truth, _ = JOINT_GRIDS[form]
    rng = np.random.default_rng(7)
    hits = {name: [] for name in (*NAMED[form], "law inside", "law beyond", "new", "new beyond")}
    for seed in range(REPEATS):
        fit = fit_expert_law(joint_runs(form, SD, seed), form, n_draws=0)
        bounds = fit.conf_int()
        for name in NAMED[form]:
            hits[name].append(bounds.loc[name, "lower"] <= truth[name] <= bounds.loc[name, "upper"])
        for place, of_law, of_run in zip(
            PLACES[form], ("law inside", "law beyond"), ("new", "new beyond"), strict=True
        ):
            exact = law(**{LETTERS[k]: np.float64(v) for k, v in place.items()}, **truth)
            band, new = fit.predict(**place), fit.predict(**place, new_run=True)
            hits[of_law].append(band.lower <= exact <= band.upper)
            run = exact * np.exp(rng.normal(0, SD))
            hits[of_run].append(new.lower <= run <= new.upper)
    return {name: np.mean(found) for name, found in hits.items()}


@pytest.mark.parametrize("form", NAMED)
def test_parameters_predictions_and_new_runs(form):
    found = shares(form)
    for name, share in found.items():
        assert 0.90 <= share <= 0.99, (name, share)


@pytest.mark.parametrize("residual", ["log", "loss"])
def test_new_runs_of_a_law_in_experts_alone(residual):
    truth, rng, hits = TRUTHS["power_floor"], np.random.default_rng(11), []
    for seed in range(REPEATS):
        fit = fit_expert_law(
            runs_of("power_floor", noise=0.01, seed=seed), residual=residual, n_draws=0
        )
        for N, E in ((1e8, 16.0), (1e9, 4.0), (5e9, 64.0)):
            run = power_floor(N, E, **truth) * np.exp(rng.normal(0, 0.01))
            new = fit.predict(N, E, new_run=True)
            hits.append(new.lower <= run <= new.upper)
    assert 0.92 <= np.mean(hits) <= 0.98  # 300 of them: three standard errors of .0126
