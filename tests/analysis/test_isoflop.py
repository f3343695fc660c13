"""Fits recover what made the data; doubtful ones say so."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from analysis import FitError, FitStatus, fit_isoflop


def table(losses_of, sizes, budgets=(1e12,), model="dense", **columns):
    rows = [
        {
            "model": model,
            "budget": budget,
            "n_params": size,
            "val_loss": losses_of(size, budget),
            "status": "done",
            **columns,
        }
        for budget in budgets
        for size in sizes
    ]
    return pd.DataFrame(rows)


def parabola(size, budget=1e12, a=0.05, x_opt=3e5, loss_opt=4.5):
    return loss_opt + a * math.log(size / x_opt) ** 2


SIZES = np.geomspace(5e4, 2e6, 7)


def test_recovers_a_clean_parabola():
    (curve,) = fit_isoflop(table(parabola, SIZES)).curves
    assert curve.status is FitStatus.CONVERGED
    assert curve.warnings == ()
    assert curve.x_opt == pytest.approx(3e5, rel=1e-9)
    assert curve.loss_opt == pytest.approx(4.5, rel=1e-12)
    assert curve.a == pytest.approx(0.05, rel=1e-9)
    assert curve.rmse < 1e-12
    np.testing.assert_allclose(curve.predict(SIZES), [parabola(s) for s in SIZES])


def test_fits_models_and_budgets_apart():
    def shifted(size, budget):
        return parabola(size, x_opt=1e5 * (budget / 1e12) ** 0.5)

    both = pd.concat([table(shifted, SIZES, (1e12, 4e12), m) for m in ("dense", "peer")])
    fit = fit_isoflop(both)
    found = {(c.model, c.budget): c.x_opt for c in fit.curves}
    assert found == pytest.approx(
        {(m, c): x for m in ("dense", "peer") for c, x in ((1e12, 1e5), (4e12, 2e5))}
    )
    assert fit.status is FitStatus.CONVERGED
    assert fit.summary().count("\n") == 3


def test_takes_the_best_of_a_cell_and_never_the_mean():
    runs = pd.concat([table(parabola, SIZES), table(lambda s, b: parabola(s) + 1.0, SIZES)])
    (curve,) = fit_isoflop(runs).curves
    assert curve.n_points == len(SIZES)
    assert curve.loss_opt == pytest.approx(4.5)


def test_failed_runs_are_not_fitted():
    runs = pd.concat([table(parabola, SIZES), table(lambda s, b: 0.1, SIZES, status="failed")])
    assert fit_isoflop(runs).curves[0].loss_opt == pytest.approx(4.5)


@pytest.mark.parametrize(
    ("losses_of", "sizes", "warning"),
    [
        (lambda s, b: parabola(s, x_opt=1e4), SIZES, "lies outside the sizes tried"),
        (lambda s, b: parabola(s, x_opt=5.5e4), SIZES, "the smallest size is the best"),
        (lambda s, b: parabola(s, x_opt=1.9e6), SIZES, "the largest size is the best"),
        (lambda s, b: parabola(s, a=-0.05), SIZES, "opens downwards"),
        (parabola, SIZES[1:6:2], "3 sizes: no residual"),
        (
            lambda s, b: parabola(s) - (0.2 if s == SIZES[3] else 0),
            SIZES,
            "nats off it",
        ),
    ],
)
def test_doubts_are_said(losses_of, sizes, warning):
    fit = fit_isoflop(table(losses_of, sizes))
    assert fit.status is FitStatus.DOUBTFUL
    assert warning in "; ".join(fit.curves[0].warnings)
    assert "DOUBTFUL" in fit.summary()


def test_too_few_sizes_are_skipped_or_refused():
    few = table(parabola, SIZES[:2], model="peer")
    fit = fit_isoflop(pd.concat([table(parabola, SIZES), few]))
    assert fit.skipped == ("peer at C=1e+12: 2 sizes, and a parabola needs 3",)
    assert fit.status is FitStatus.DOUBTFUL
    with pytest.raises(FitError, match="no curve to fit: peer at C=1e"):
        fit_isoflop(few)
    with pytest.raises(FitError, match="no finished run"):
        fit_isoflop(table(parabola, SIZES, status="failed"))


def test_refuses_an_axis_that_is_not_a_size():
    with pytest.raises(ValueError, match="x='loss' is not one of n_params"):
        fit_isoflop(table(parabola, SIZES), x="loss")


def test_results_are_frozen():
    (curve,) = fit_isoflop(table(parabola, SIZES)).curves
    with pytest.raises(dataclasses.FrozenInstanceError):
        curve.a = 0.0
    assert curve.to_dict()["x_opt"] == curve.x_opt
