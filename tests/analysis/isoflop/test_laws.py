"""Laws of isoFLOP curves' minima: what they recover, and what they say of themselves."""

import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.fitting.power_law import FrontierFit, PowerLaw
from analysis.fitting.status import FitStatus
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.shape import fit_parabola
from tests.analysis.tables import (
    BUDGETS,
    HOFFMANN,
    around_the_optimum,
    best_size,
    curves,
    growing,
    joined,
    moving,
    noisy,
    parabola,
    surface,
)

FEW = {"n_draws": 5}  # where the bootstraps are not what is tested
fit_parabolas = partial(fit_isoflop, method="parabola")


def test_laws_come_back():
    fit = fit_parabolas(moving(), **FEW)
    law = fit.law()
    assert (law.model, law.n_budgets, law.excluded) == ("dense", 5, ())
    # 1e-6 as P7 asks
    assert law.laws["n_params"].params == pytest.approx(
        {"coefficient": 0.3, "exponent": 0.5}, rel=1e-6
    )
    assert law.laws["n_tokens"].exponent == pytest.approx(0.5, rel=1e-6)
    assert law.laws["n_tokens"].coefficient == pytest.approx(1 / (6 * 0.3), rel=1e-6)
    assert isinstance(law.loss, FrontierFit)
    assert law.loss.params == pytest.approx({"E": 2.0, "A": 30.0, "alpha": 0.1}, rel=1e-6)
    assert law.status is FitStatus.CONVERGED
    assert set(law.exponents["n_params"]) == {"t", "noise", "case", "jackknife"}


@pytest.mark.parametrize(
    ("n", "says", "hows"),
    [
        (2, "goes through both", {"t", "noise", "case"}),
        (3, "one degree of freedom", {"t", "noise", "case", "jackknife"}),
        (4, "4 budgets for 3 parameters", {"t", "noise", "case", "jackknife"}),
    ],
)
def test_laws_of_few_budgets_are_flagged(n, says, hows):
    fit = fit_parabolas(noisy(moving(n_budgets=n), 0.002), n_draws=20)
    law = fit.law()
    assert law.status is not FitStatus.CONVERGED
    assert says in "; ".join(law.warnings)
    assert set(law.exponents["n_params"]) == hows
    assert isinstance(law.loss, FrontierFit if n == 4 else PowerLaw)
    assert any("without a floor" in w for w in law.warnings) == (n < 4)
    t = law.exponents["n_params"]["t"]
    assert np.isnan([t.lower, t.upper]).all() if n == 2 else t.lower < t.value < t.upper
    assert json.dumps(fit.to_dict(), allow_nan=False)
    assert law.summary() in fit.summary()


def test_one_budget_is_no_law_and_says_so():
    fit = fit_parabolas(curves(parabola), **FEW)
    assert fit.laws == ()
    assert "no power laws: dense: 1 budget with a minimum; a power law needs 2" in fit.why_no_laws
    assert f"note: {fit.why_no_laws}" in fit.summary()
    with pytest.raises(ValueError, match="model=None must name one whose laws were fitted: none"):
        fit.law()


@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_minima_all_at_an_edge_are_no_law(method):
    table = joined(*(curves(lambda s, b: parabola(s, x_opt=1e4), budgets=(b,)) for b in BUDGETS))
    fit = fit_isoflop(table, method=method, **FEW)
    assert fit.laws == ()
    assert not any(c.inside for c in fit.curves)
    assert fit.status is FitStatus.WARNING
    note = fit.unfitted["dense"]
    assert "0 budgets with a minimum" in note
    assert note.count("C=") == len(BUDGETS)


def test_budgets_without_a_minimum_are_left_out_by_name():
    def losses(s, b):
        return parabola(s, x_opt=1e4) if b == BUDGETS[0] else growing(s, b)

    fit = fit_parabolas(moving(losses), **FEW)
    law = fit.law()
    assert law.n_budgets == 4
    assert law.excluded == ("C=1e+12 (the minimum lies outside the sizes tried)",)
    assert "1 budget excluded from the laws: C=1e+12" in law.warnings[0]
    assert law.status is FitStatus.WARNING
    assert law.laws["n_params"].exponent == pytest.approx(0.5, rel=1e-6)
    table = moving(losses)  # of three sizes too, whose curve has another warning
    table = table[~((table["budget"] == BUDGETS[0]) & (table.groupby("budget").cumcount() > 2))]
    assert "outside the sizes tried" in fit_parabolas(table, **FEW).law().excluded[0]


def test_intervals_of_an_exponent_are_made_as_they_say():
    table = noisy(moving(), 0.01, seed=2)
    fit = fit_parabolas(table, n_draws=400)
    law = fit.law()
    x = np.log([c.budget for c in fit.curves])
    y = np.log([c.x_opt for c in fit.curves])
    line = stats.linregress(x, y)
    found = law.exponents["n_params"]
    half = stats.t.ppf(0.975, 3) * line.stderr
    assert found["t"][:] == pytest.approx((line.slope, line.slope - half, line.slope + half))
    assert tuple(law.laws["n_params"].conf_int().loc["exponent"]) == found["t"][1:]
    left = [stats.linregress(np.delete(x, i), np.delete(y, i)).slope for i in range(5)]
    se = np.sqrt(4 / 5 * ((left - np.mean(left)) ** 2).sum())
    assert found["jackknife"].upper == pytest.approx(line.slope + stats.t.ppf(0.975, 4) * se)
    # What a curve's noise does to its minimum, carried to the slope by hand; 15 %: two standard
    # errors of a width from 400 draws, and a minimum is not quite linear in the losses
    sd = [
        c.noise
        / (2 * c.a)
        * np.sqrt(fit_parabola(np.log(c.sizes), np.array(c.losses)).unscaled[1, 1])
        for c in fit.curves
    ]
    u = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    expected = stats.norm.ppf(0.975) * np.sqrt((u**2 * np.square(sd)).sum())
    assert (found["noise"].upper - found["noise"].lower) / 2 == pytest.approx(expected, rel=0.15)
    assert found["case"].lower < line.slope < found["case"].upper
    for how, e in found.items():
        assert f"{how} {e.lower:.4f} to {e.upper:.4f}" in law.summary()


def test_draws_that_lose_their_minimum_are_told():
    fit = fit_parabolas(noisy(moving(), 0.002), noise=0.3, n_draws=100)
    assert any("of the noise draws had no minimum inside" in w for w in fit.law().warnings)
    assert fit.law().status is not FitStatus.CONVERGED


def test_a_parabola_in_tokens_is_biased_as_p7_says():
    budgets = np.geomspace(1e17, 1e21, 5)
    C, N, D = around_the_optimum(budgets, 15, 16.0, HOFFMANN)
    table = pd.DataFrame({"budget": C, "n_params": N, "n_tokens": D, "status": "done"})
    table = table.assign(series="dense", model="dense", loss=surface(N, D, **HOFFMANN))
    law = fit_parabolas(table, x="n_tokens", **FEW).law().laws["n_tokens"]
    # Half of the last digit given
    assert law.exponent == pytest.approx(0.548387, abs=5e-7)
    assert np.log10(law.coefficient) == pytest.approx(-0.578092, abs=5e-7)
    truth = 1e24 / (6 * best_size(1e24, **HOFFMANN))
    assert law.predict(1e24).value[0] / truth - 1 == pytest.approx(-0.051, abs=5e-4)


@pytest.mark.parametrize("method", ["slice", "parabola"])
def test_draws_follow_the_seed(method):
    table = noisy(moving(), 0.005)
    one, same, other = (fit_isoflop(table, method=method, n_draws=20, seed=s) for s in (0, 0, 1))
    assert one.to_dict() == same.to_dict()
    assert [c.x_opt for c in one.curves] == [c.x_opt for c in other.curves]
    assert one.law().exponents["n_params"]["case"] != other.law().exponents["n_params"]["case"]
    assert "draws" not in json.dumps(one.to_dict())


@pytest.mark.parametrize(
    ("kind", "C"), [("best at an edge", "1e+12"), ("weak curvature", "2.56e+14")]
)
def test_a_law_on_minima_with_warnings_has_one_itself(kind, C):
    if kind == "weak curvature":
        last = moving(lambda s, b: growing(s, b, a=0.0005) + 0.01 * math.sin(7 * math.log(s)))
        table = joined(moving(n_budgets=4), last[last["budget"] == BUDGETS[4]])
    else:
        first = curves(growing, 3e5 * np.geomspace(1 / 1.06, 6, 7), BUDGETS[:1])
        table = joined(first, moving()[lambda t: t["budget"] > BUDGETS[0]])
    fit = fit_parabolas(table, n_draws=20)
    assert [(c.flags, c.inside) for c in fit.curves if c.flags] == [((kind,), True)]
    assert fit.law().excluded == ()
    assert fit.law().status is FitStatus.WARNING
    assert fit.law().warnings == (f"1 of the 5 minima used have warnings: C={C} ({kind})",)
