"""Weighted fit of curves, against its matrices written out and differences of its values."""

import numpy as np
import pytest

from analysis.contrast.curves import CENTRES, fit_curves, make_design
from analysis.contrast.points import make_points
from tests.analysis.contrast.test_contrast import made

WAYS = [(centres, "one") for centres in CENTRES] + [("free", "layer")]


@pytest.fixture(scope="module")
def points():
    return make_points(made(np.random.default_rng(7)))


@pytest.fixture(scope="module", params=WAYS, ids=" ".join)
def fitted(points, request):
    """With a variance of each point's own."""
    variance = np.random.default_rng(8).uniform(1e-5, 4e-4, len(points.u))
    design = make_design(points, *request.param)
    return design, variance, fit_curves(design, points.losses, variance)


def test_leverage_is_the_hat_matrix_s_diagonal(points, fitted):
    design, variance, found = fitted
    X, V = design.columns, np.diag(1 / variance)
    hat = X @ np.linalg.inv(X.T @ V @ X) @ X.T @ V  # of losses to curves
    assert found.free == pytest.approx(1 - np.diag(hat), abs=1e-9)
    assert found.free.sum() == pytest.approx(len(points.u) - X.shape[1])
    assert found.off == pytest.approx(points.losses - hat @ points.losses, abs=1e-9)
    assert found.covariance == pytest.approx(np.linalg.inv(X.T @ V @ X), rel=1e-6)
    assert found.moves @ points.losses == pytest.approx(found.theta)


@pytest.mark.parametrize("quantity", ["minimum", "place", "curvature"])
def test_a_gradient_is_that_of_differences(points, fitted, quantity):
    design, _, found = fitted
    for cell in range(len(points.cells)):
        of = getattr(design, quantity)(cell)
        gradient = of(found.theta)[1]
        steps = 1e-6 * np.eye(len(found.theta))
        slow = [(of(found.theta + h)[0] - of(found.theta - h)[0]) / 2e-6 for h in steps]
        assert gradient == pytest.approx(np.array(slow), abs=1e-7)  # the differences' rounding


def test_a_curve_s_place_and_minimum_are_those_of_its_points(points, fitted):
    design, _, found = fitted
    for cell in range(len(points.cells)):
        level, slope, bend = (
            part[cell] @ found.theta for part in (design.level, design.slope, design.bend)
        )
        u = np.linspace(-3, 3, 60_001)
        loss = level + slope * u + bend * u**2
        assert design.place(cell)(found.theta)[0] == pytest.approx(u[loss.argmin()], abs=1e-4)
        assert design.minimum(cell)(found.theta)[0] == pytest.approx(loss.min(), abs=1e-7)
