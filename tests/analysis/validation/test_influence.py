"""Runs that a surface depends on: planted ones are found, and clean tables have none."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.status import FitError, FitStatus
from analysis.parametric import fit_parametric
from analysis.validation.influence import compute_influence
from tests.analysis.tables import BESIROGLU, around_the_optimum, surface

_, N, D = around_the_optimum(np.geomspace(1e18, 1e21, 6), 20, 8.0, BESIROGLU)
# ... and two of large models that saw hardly any token, as in Chinchilla's figure
N, D = np.append(N, [3e9, 7e9]), np.append(D, [4e7, 2e7])


def losses(seed=0, sd=0.005):
    clean = surface(N, D, **BESIROGLU)
    return clean * np.exp(np.random.default_rng(seed).normal(0, sd, len(N)))


@pytest.fixture(scope="module")
def planted():
    """122 runs, of which the last two have a loss 40 % above the surface."""
    loss = losses()
    loss[-2:] *= 1.4
    return loss, (120, 121)


def test_planted_runs_are_found_and_the_fit_without_them_is_exact(planted):
    loss, rows = planted
    found = compute_influence(N, D, loss, n_draws=200)
    assert found.n_out == 2  # 2 % of 122
    assert found.status is FitStatus.WARNING
    assert found.rows == rows
    by_name = {one.parameter: one for one in found.sets}
    assert by_name["beta"].outside
    assert by_name["beta"].rows == rows
    keep = ~np.isin(np.arange(len(N)), rows)
    without = fit_parametric(N[keep], D[keep], loss[keep], n_draws=200)
    assert found.without.params == pytest.approx(without.params, rel=1e-9)
    assert by_name["beta"].before == found.fit.params["beta"]
    assert by_name["beta"].after == without.params["beta"]
    low, high = without.bounds("beta", 0.95)
    assert (by_name["beta"].lower, by_name["beta"].upper) == pytest.approx((low, high))
    assert not low <= found.fit.params["beta"] <= high
    # ... and no warning of the fit itself says so
    assert found.fit.status is FitStatus.CONVERGED
    text = found.summary()
    assert "2 of 122 runs (row " in text
    assert "beyond the 95 % interval of the fit without them" in text
    assert "without them:\nL = E" in text
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert back["rows"] == list(rows)
    assert back["without"]["params"] == found.without.params


def test_without_the_planted_runs_there_are_none(planted):
    loss, rows = planted
    keep = ~np.isin(np.arange(len(N)), rows)
    found = compute_influence(N[keep], D[keep], loss[keep], n_draws=200)
    assert found.status is FitStatus.CONVERGED
    assert found.rows == ()
    assert found.without is None
    assert list(found.to_frame()["parameter"]) == ["E", "A", "B", "alpha", "beta"]


@pytest.mark.parametrize("residual", ["log", "loss"])
def test_the_first_order_is_that_of_leaving_one_out(residual):
    loss, how = losses(seed=3), {"residual": residual, "delta": np.inf}
    found = compute_influence(N, D, loss, n_draws=2, **how)
    whole = found.fit.params
    assert list(found.runs.columns[:4]) == ["n_params", "n_tokens", "loss", "residual"]
    picked = range(0, len(N), 8)
    exact = {name: [] for name in whole}
    for row in picked:
        keep = np.arange(len(N)) != row
        one = fit_parametric(N[keep], D[keep], loss[keep], n_draws=0, **how).params
        for name, value in one.items():
            exact[name].append(value / whole[name] - 1)
    for name, values in exact.items():
        near = found.runs[name].iloc[list(picked)]
        assert np.corrcoef(near, values)[0, 1] > 0.98
        # Short by the run's own leverage, which is a quarter at the corners of this design
        np.testing.assert_allclose(near, values, rtol=0.3, atol=0.02 * np.abs(values).max())
    expected = (
        np.log(loss / found.fit.loss(N, D)) if residual == "log" else loss - found.fit.loss(N, D)
    )
    np.testing.assert_allclose(found.runs["residual"], expected)


@pytest.mark.parametrize("n_out", [0, -1, 25, 60])
def test_what_is_left_out_is_a_few(n_out):
    with pytest.raises(ValueError, match=rf"n_out={n_out} must be 1 to 24 of 122 runs"):
        compute_influence(N, D, losses(), n_out=n_out, n_draws=0)


def test_too_few_runs_are_refused():
    with pytest.raises(FitError, match="influence: 6 runs less 1 are too few for 5 parameters"):
        compute_influence(N[::20][:6], D[::22][:6], losses()[::20][:6], n_draws=0)


@pytest.mark.night
def test_five_of_chinchilla_s_245_runs_move_beta_by_a_fifth(published):
    frame = pd.read_csv(published("chinchilla_epoch_245.csv"))
    found = compute_influence(frame["params"], frame["tokens"], frame["loss"])
    highest = set(np.argsort(-frame["loss"].to_numpy())[:5].tolist())
    assert found.n_out == 5
    beta = {one.parameter: one for one in found.sets}["beta"]
    assert beta.outside
    assert set(beta.rows) == highest  # those that Besiroglu 2024 leave out
    assert highest <= set(found.rows)
    assert beta.before == pytest.approx(0.4530, abs=2e-4)
    assert beta.after == pytest.approx(0.36717, abs=2e-4)  # P1's
    assert beta.before / beta.after - 1 == pytest.approx(0.23, abs=0.005)
    assert found.without.objective == pytest.approx(1.018274e-3, abs=5e-10)
    assert found.fit.status is FitStatus.CONVERGED
    assert found.status is FitStatus.WARNING
    kept = frame.drop(index=list(highest))
    again = compute_influence(kept["params"], kept["tokens"], kept["loss"])
    assert again.warnings == ()


@pytest.mark.night
def test_true_surfaces_have_hardly_any_false_alarm():
    """Runs are sought out, so their interval alone would promise too little: at most 5 % of 60."""
    alarms = 0
    _, n, d = around_the_optimum(np.geomspace(1e18, 1e21, 6), 10, 8.0, BESIROGLU)
    clean = surface(n, d, **BESIROGLU)
    rng = np.random.default_rng(0)
    for _ in range(60):
        loss = clean * np.exp(rng.normal(0, 0.0075, len(n)))
        alarms += bool(compute_influence(n, d, loss, n_draws=200).warnings)
    assert alarms <= 3
