"""A form's error by what it says without the edge of its runs."""

import numpy as np
import pytest
from scipy import stats

from analysis.fitting.edges import edge_weights, error_of_form, find_edges, pooled, widened
from analysis.fitting.intervals import Prediction
from analysis.surfaces.compare import compare_surfaces
from tests.analysis.tables import HOFFMANN, surface

N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 4e9, 6), np.geomspace(1e9, 1e11, 6)))


def test_edges_are_the_largest_and_each_is_withheld_once():
    shares = {"size": (0.2, 0.4), "tokens": (0.2,), "again": (0.2,)}
    edges = find_edges({"size": N, "tokens": D, "again": D**2}, shares)
    assert [edge.name for edge in edges] == ["size", "size", "tokens"]
    first, second, third = edges
    assert (N[first.out] == N.max()).all()
    assert first.out.sum() == 6
    assert first.width == pytest.approx(np.log(4e9 / 1e8) / 5)
    assert (first.places, second.places) == (1, 2)
    assert third.top == pytest.approx(np.log(1e11))


def test_what_differs_as_noise_does_is_no_error_of_the_form():
    rng = np.random.default_rng(0)
    own, shifts = rng.normal(size=41), rng.normal(size=(3, 41))
    shifts[:, 0] = 0.5
    assert error_of_form(own, own + shifts) == 0
    assert error_of_form(own, own + shifts, misfit=True) == pytest.approx(0.5)
    shifts[:, 0], shifts[:, 1:] = 5.0, 0.0
    assert error_of_form(own, own + shifts) == pytest.approx(5)
    assert error_of_form(own, own + shifts, 2.0) == pytest.approx(10)
    assert error_of_form(own, np.empty((0, 41))) == 0


def test_an_interval_has_the_error_beside_the_noise():
    of = Prediction(*(np.array([v]) for v in (-2.0, -2.03, -1.97)), 0.95)
    found = widened(of, np.array([0.04 / stats.t.ppf(0.975, 3)]), 0.95, 4)
    assert found.upper + 2 == pytest.approx(0.05)
    assert -2 - found.lower == pytest.approx(0.05)
    assert widened(of, np.zeros(1), 0.95, 4)[:3] == of[:3]


def test_forms_weigh_by_the_errors_at_the_edges():
    edges = find_edges({"size": N}, {"size": (0.4,)})
    near, far, none = (Fitted(edges, off) for off in (0.01, 0.1, None))
    weights = edge_weights({"near": near, "far": far})
    # One mean square is 100 times the other, at two places: 100 to the power of 2 / 2
    assert weights["near"] / weights["far"] == pytest.approx(100)
    assert pooled({"near": 0.1, "far": 0.9}, weights)["near"] == pytest.approx(
        (0.1 + 100 / 101) / 2
    )
    assert pooled({"near": 0.9, "far": 0.1}, weights) == {"near": 0.9, "far": 0.1}
    assert edge_weights({"near": none, "far": far}) == {}


class Fitted:
    """A fit that was off each edge by so much; None: one that saw all runs."""

    def __init__(self, edges, off):
        self.edges = () if off is None else tuple(edges)
        self.off = off

    def missed_at(self, edge):
        return self.off


def test_a_form_that_misses_its_runs_has_an_error_and_the_runs_own_has_little():
    sizes, tokens = np.geomspace(2e8, 6e9, 8), np.geomspace(2e9, 3e11, 8)
    N, D = (v.ravel() for v in np.meshgrid(sizes, tokens))
    noise = np.exp(np.random.default_rng(1).normal(0, 0.002, len(N)))
    loss = surface(N, D, **HOFFMANN) * noise
    at, widths = (3e10, 2e12), []
    for values in (loss, loss * np.exp(0.01 * np.sin(2.5 * np.log(N)))):
        found = compare_surfaces(N, D, values, ["chinchilla"], n_draws=60)
        (fit,) = found.fits
        assert fit.misfit == bool(found.missed)
        alone, whole = fit.alone.predict(*at), found.predict(*at)
        assert whole.value == pytest.approx(alone.value, rel=1e-12)  # one form has all weight
        widths.append(np.log(whole.upper / whole.lower) / np.log(alone.upper / alone.lower))
        new = found.predict(*at, new_run=True)
        assert new.lower < whole.lower
        assert new.upper > whole.upper
    assert found.missed
    assert widths[0] < 1.3
    assert widths[1] > 1.3
