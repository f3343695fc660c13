"""Fits of curves: parameters come back, intervals hold, and what can't be known is said."""

import numpy as np
import pytest

from analysis.curves.compare import BOTH, NEAREST, compare_curves
from analysis.curves.fit import end_loss, fit_curves
from analysis.curves.schedules import named_schedule
from analysis.figures.curves import draw_curves
from analysis.fitting.status import FitError, FitStatus
from tests.analysis.curves.made import ANNEALING, annealed


def two(**how):
    return [annealed("cosine", 2000, **how), annealed("wsd", 2000, **how)]


def test_exact_curves_give_the_law_back():
    """But that each point stands for the mean of 30 steps."""
    fit = fit_curves(two(), n_draws=0)
    level, a, alpha, c, lam = fit.estimates
    assert level == pytest.approx(ANNEALING["level"], abs=0.01)
    assert a == pytest.approx(ANNEALING["a"], rel=0.01)
    assert alpha == pytest.approx(ANNEALING["alpha"], abs=0.01)
    assert c == pytest.approx(ANNEALING["c"], rel=0.03)
    assert 1 - lam == pytest.approx(1 - ANNEALING["lam"], rel=0.03)
    assert fit.status is FitStatus.CONVERGED
    third = annealed("constant", 2000)
    assert fit.end(third).value == pytest.approx(end_loss(third), abs=2e-3)
    longer = annealed("cosine", 8000)
    assert fit.end(longer).value == pytest.approx(end_loss(longer), abs=2e-3)
    assert np.isnan(fit.end(third).lower)  # no draws


def test_a_run_that_ends_where_the_fit_begins_is_named_and_not_drawn():
    short = annealed("cosine", 110)
    found = compare_curves([*two(), short], ["steps"], n_draws=2)
    (text,) = [text for text in found.warnings if "excluded" in text]
    assert text.endswith("fewer than 8 rows after step 120, where the fit begins: cosine 110")
    assert draw_curves(found).axes


def test_two_schedules_predict_the_third_better_than_steps_alone():
    rng = np.random.default_rng(0)
    how = {"noise": 0.01, "rng": rng}
    third = annealed("constant", 2000, **how)
    found = compare_curves([*two(**how), third], hold_out=["constant"], n_draws=20)
    by_law = {p.law: p for p in found.held}
    assert list(by_law) == ["annealing", "multi-power", BOTH, "steps", NEAREST]
    assert by_law["annealing"].inside
    assert by_law[BOTH].inside
    assert by_law[BOTH].predicted.lower == min(
        by_law[law].predicted.lower for law in ("annealing", "multi-power")
    )
    assert abs(by_law["annealing"].error) < abs(by_law["steps"].error) / 3
    assert by_law[NEAREST].predicted.value == pytest.approx(
        np.mean([end_loss(one) for one in found.histories[:2]])
    )
    assert by_law[NEAREST].inside is None
    text = found.summary()
    assert "held out" in text
    assert "rms error" in text


def test_runs_without_a_decay_identify_no_gain():
    with pytest.raises(FitError, match=r"no run falls before its end.*--law steps"):
        fit_curves([annealed("constant", 1000), annealed("constant", 2000)])


def test_one_schedule_alone_is_warned_of():
    fit = fit_curves([annealed("wsd", 1000), annealed("wsd", 2000)], n_draws=0)
    assert any("all runs have one schedule" in text for text in fit.warnings)


def test_too_few_rows_after_the_warm_up_are_refused():
    with pytest.raises(FitError, match="no history has 8 rows after step 1995"):
        fit_curves(two(), skip=1995)


def test_short_noisy_curves_say_what_they_leave_open():
    rng = np.random.default_rng(1)
    runs = [annealed(kind, 400, noise=0.03, rng=rng) for kind in ("cosine", "wsd")]
    fit = fit_curves(runs, n_draws=60)
    assert any("not identifiable" in text or "trade off" in text for text in fit.warnings)


def test_a_named_schedule_has_the_peak_and_warm_up_of_a_run():
    like = annealed("cosine", 2000)
    found = named_schedule("wsd", 4000, like, decay=0.25, final=0.0)
    assert found.peak == like.peak
    assert found.step[-1] == 4000
    assert found.rate[-1] == 0.0
    assert found.risen == pytest.approx(like.risen, abs=10)
    half = np.interp(3500, found.step, found.rate)
    assert half == pytest.approx(like.peak / 2, rel=0.01)
    with pytest.raises(ValueError, match="no longer than the warm-up"):
        named_schedule("wsd", 30, like)


@pytest.mark.night
@pytest.mark.parametrize(("kind", "n_steps"), [("constant", 2000), ("cosine", 4000)])
def test_intervals_hold_a_third_schedule_and_a_longer_run(kind, n_steps):
    """Nominal 95 %, 100 draws of noise of a row's own and of batches that all runs share; below
    0.88 are three standard errors.
    """
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(1000 + seed)
        how = {"noise": 0.01, "rng": rng, "shared": 0.01 * rng.standard_normal(400)}
        fit = fit_curves(two(**how), n_draws=100, seed=seed)
        new = annealed(kind, n_steps, **how)
        predicted = fit.end(new)
        held += predicted.lower <= end_loss(new) <= predicted.upper
    assert held >= 88, held
