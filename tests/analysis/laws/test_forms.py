"""Every law, found by itself: its derivatives, its parameters, and what a file of it must have."""

import numpy as np
import pytest

from analysis.fitting.status import FitStatus
from analysis.laws import forms
from analysis.laws.fit import fit_law
from analysis.laws.forms import LAWS, OF_EXPERTS, SURFACES
from analysis.laws.law import Law, Variables
from analysis.one_a_file import find
from analysis.surfaces.fit import SurfaceFit
from tests.extending import follow


def drawn(law, seed=0):
    """Variables of 40 runs, their centre, and a theta near the middle of the law's starts."""
    rng = np.random.default_rng(seed)
    N, D = np.exp(rng.normal(18, 1, 40)), np.exp(rng.normal(23, 1, 40))
    E, G = 2.0 ** rng.integers(0, 9, 40), 2.0 ** rng.integers(0, 5, 40)
    at = Variables.of(N, D, E, G, 1 - 1 / E, U=D / rng.uniform(0.8, 8, 40))
    loss = 1.7 + rng.uniform(0.5, 1.5, 40)
    return at, at.centre(), law.start(at, at.centre(), loss, ())


@pytest.mark.parametrize("name", LAWS)
def test_derivatives_are_those_by_differences(name):
    law = LAWS[name]
    at, centre, start = drawn(law)
    model = law.model(at, centre)
    theta = start.starts[:3] + np.random.default_rng(1).normal(0, 0.02, (1, len(law.names)))
    if name == "farseer":
        theta[0, -1] = 1e-9  # a bend that is none
    _, jacobian = model(theta)
    for j in range(theta.shape[1]):
        h = np.zeros(theta.shape[1])
        h[j] = 1e-6
        numeric = (model(theta + h)[0] - model(theta - h)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, j], numeric, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LAWS)
def test_what_a_law_names_is_its_own(name):
    law = LAWS[name]
    _, centre, start = drawn(law)
    assert (start.lower < start.upper).all()
    assert law.natural(start.starts, centre).shape == start.starts.shape
    assert start.starts.shape[1] == len(start.lower) == len(law.names)
    named = [*law.terms, *(name for names in law.left_out.values() for name in names)]
    named += [name for more in (law.tells, law.terms) for names in more.values() for name in names]
    named += [name for name, _ in law.at_bound]
    assert set(named) <= set(law.names)
    assert {*law.distinct, *law.left_out, *law.tells} <= set(law.variables) <= set("NDEGSU")
    assert set(SURFACES) | set(OF_EXPERTS) == set(LAWS)
    beyond_all = Variables.of([1e150], [1e150], 1e150, 1e150, 0.0, 1e150)
    with np.errstate(all="ignore"):  # of starts whose powers overflow there
        logs = law.model(beyond_all, centre)(start.starts)[0]
    assert law.has_floor == (np.nanmax(logs) > -5), "has_floor"


def test_a_file_without_its_law_is_named(tmp_path, monkeypatch):
    (tmp_path / "nameless.py").write_text("LAW = 3\n")
    monkeypatch.setattr(forms, "__path__", [*forms.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="nameless needs LAW = a Law with name='nameless'"):
        find(forms.__name__, forms.__path__, "LAW", Law)


def test_predictions_do_not_depend_on_how_many_draws_are_held_at_once(monkeypatch):
    law = LAWS["chinchilla"]
    at, *_ = drawn(law)
    loss = 1.7 + 400 * at.N**-0.34 + 400 * at.D**-0.28
    fit = fit_law(SurfaceFit, law, at, loss * 1.001 ** np.arange(40), n_draws=7)
    assert fit.status in FitStatus
    by = fit.predict(1e9, [1e10, 1e11])
    monkeypatch.setattr("analysis.fitting.edges._AT_ONCE", 2)
    np.testing.assert_array_equal(by.value, fit.predict(1e9, [1e10, 1e11]).value)
    np.testing.assert_allclose(by.lower, fit.predict(1e9, [1e10, 1e11]).lower, rtol=1e-12)


@pytest.mark.night
def test_a_fit_form(tmp_path):
    printed = follow("A fit form", tmp_path)
    assert f"{{{','.join(sorted({*SURFACES, 'kaplan_floor'}))}," in printed
    assert "kaplan_floor: L = E + ((A/N)^(alpha/beta) + B/D)^beta" in printed
