"""Laws that the runs do not exclude: their weights, what they say together, and what none has."""

import numpy as np
import pytest
from scipy import stats

from analysis.experts.compare import compare_laws
from analysis.experts.fit import fit_expert_law
from analysis.fitting.average import akaike_weights, averaged, possible
from analysis.fitting.intervals import Prediction
from analysis.fitting.pattern import find_pattern
from tests.analysis.expert_laws import EXPERTS, SIZES, runs_of
from tests.analysis.experts.simulated import rising
from tests.analysis.tables import expert_runs


def test_weights_are_the_books():
    weights = akaike_weights([10.0, 12.0, 20.0, np.inf])
    assert weights.sum() == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(np.e)
    assert weights[0] / weights[2] == pytest.approx(np.exp(5))
    assert weights[3] == 0
    assert np.isnan(akaike_weights([np.inf, np.inf])).all()


def test_the_fewest_that_have_all_but_a_hundredth_are_possible():
    kept = possible(np.array([0.006, 0.7, 0.2905, 0.0035]))
    assert kept.tolist() == [False, True, True, False]
    assert possible(np.array([0.009, 0.991])).tolist() == [False, True]
    assert possible(np.array([0.011, 0.989])).tolist() == [True, True]


def test_the_interval_holds_those_of_all_laws():
    first = Prediction(np.array([2.0, 3.0]), np.array([1.9, 2.7]), np.array([2.1, 3.2]), 0.9)
    second = Prediction(np.array([2.2, 2.9]), np.array([2.0, 2.8]), np.array([2.5, 3.0]), 0.9)
    logs = [one.on(np.log) for one in (first, second)]
    found = averaged(logs, [0.6, 0.2], 0.9).on(np.exp)
    assert found.level == 0.9
    np.testing.assert_allclose(found.value, [8**0.25 * 2.2**0.25, 27**0.25 * 2.9**0.25])
    np.testing.assert_allclose(found.lower, [1.9, 2.7])
    np.testing.assert_allclose(found.upper, [2.5, 3.2])


def test_one_law_s_average_is_its_own():
    compared = compare_laws(runs_of("power_floor", noise=0.01), ["power_floor"], n_draws=0)
    assert compared.possible == {"power_floor": 1.0}
    own, found = (of.predict(1e8, 64) for of in (compared.fits[0], compared))
    assert found.value == pytest.approx(own.value)
    # Errors are added in squares of logarithms: alike but for rounding
    assert (found.lower, found.upper) == pytest.approx((own.lower, own.upper), rel=1e-12)
    run = compared.predict(1e8, 64, new_run=True)
    assert run.lower < found.lower < found.upper < run.upper


def test_where_laws_differ_their_average_is_wide():
    compared = compare_laws(runs_of("clark", noise=0.03, seed=3), n_draws=0)
    assert len(compared.possible) > 1
    assert sum(law.weight for law in compared.laws) == pytest.approx(1)
    last = compared.over_experts()
    assert last["n_experts"].tolist() == [512, 2048] * 2
    assert (last["lower"] < last["loss"]).all()
    assert (last["loss"] < last["upper"]).all()
    best = compared.fits[0].predict(SIZES[-1], 2048.0)
    assert last["upper"].iloc[-1] / last["lower"].iloc[-1] > best.upper / best.lower


def test_a_rise_that_no_law_has_is_reported():
    compared = compare_laws(expert_runs(rising, SIZES, EXPERTS, noise=0.005), n_draws=0)
    says = f"{compared.laws[0].form_name}: this law misses the runs in a pattern, by about 0.0"
    assert any(text.startswith(says) for text in compared.warnings)
    clean = fit_expert_law(runs_of("power_floor", noise=0.005), n_draws=0)
    assert clean.warnings == ()


def test_noise_alone_is_as_seldom_a_pattern_as_its_chance_says():
    rng = np.random.default_rng(6)
    x = np.linspace(0, 1, 25)
    moves, kernel = np.vander(x, 3), np.exp(-(((x[:, None] - x) / 0.2) ** 2) / 2)
    chances = [find_pattern(rng.normal(size=25), moves, kernel).chance for _ in range(400)]
    # A uniform distribution: Kolmogorov and Smirnov's largest distance of 400 in 999 of 1,000 cases
    assert stats.kstest(chances, "uniform").statistic < 1.95 / 20
    wave = 10 * np.sin(9 * x)
    seen = find_pattern(wave + rng.normal(size=25), moves, kernel)
    assert seen.is_lack
    wanted, found = (v - moves @ np.linalg.lstsq(moves, v)[0] for v in (wave, seen.missed))
    assert np.corrcoef(found, wanted)[0, 1] > 0.9
