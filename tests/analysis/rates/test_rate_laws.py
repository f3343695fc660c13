"""Laws of best rates that are known, and those of Step Law's runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.rates.compare import compare_forms
from analysis.rates.fit import fit_rates
from analysis.rates.law import fit_law
from analysis.table.load import check_table, load_table
from tests.analysis.rates.made import SIZES, TOKENS, TRUE, best, cell_of, grid_of
from tests.analysis.rates.unseen import unseen


def test_a_clean_law_comes_back():
    found = fit_rates(check_table(grid_of()))
    law = found.forms[0].law
    assert law.columns == ("n_params", "n_tokens")
    assert law.exponents == pytest.approx(TRUE, rel=1e-6)
    assert law.params["coefficient"] == pytest.approx(20.0, rel=1e-5)
    assert law.held_out == pytest.approx(1.0, abs=1e-6)
    at = {"n_params": [2e7], "n_tokens": [2e9]}
    assert law.predict(at).value == pytest.approx(best(2e7, 2e9), rel=1e-6)


@pytest.mark.parametrize(("error", "tau"), [(0.05, 0.0), (0.05, 0.2), (0.0, 0.1)])
def test_intervals_cover_the_true_exponents(error, tau):
    """Of cells with errors that differ threefold, and of a law that misses them by tau."""
    rng = np.random.default_rng(1)
    hits = np.zeros(2)
    n_draws = 100
    for _ in range(n_draws):
        cells = []
        for N in SIZES:
            for D in TOKENS:
                own = error * rng.uniform(0.5, 1.5)
                off = np.hypot(own, tau) * rng.normal()
                cells.append(cell_of(best(N, D) * np.exp(off), own, n_params=N, n_tokens=D))
        law = fit_law(cells, ("dense",), ("n_params", "n_tokens"))
        for i, name in enumerate(TRUE):
            low, high = law.bounds(f"exponent[{name}]")
            hits[i] += low <= TRUE[name] <= high
    # 95 % of 100: fewer than 88 has a chance of 0.2 % each
    assert (hits >= 88).all()
    assert (hits <= 100).all()


def test_noisy_runs_give_back_the_law_within_its_interval():
    found = fit_rates(check_table(grid_of(noise=0.003, seed=3)))
    law = found.forms[0].law
    assert law.columns == ("n_params", "n_tokens")
    for name, true in TRUE.items():
        low, high = law.bounds(f"exponent[{name}]")
        assert low < true < high
        assert high - low < 0.3
    assert 1.0 < law.held_out < 1.2


@pytest.mark.night
def test_intervals_of_noisy_runs_cover_the_exponents():
    """From losses to exponents: 8 or more of 10, where fewer have a chance of 1 % each."""
    hits = dict.fromkeys(TRUE, 0)
    for seed in range(10):
        laws = fit_rates(check_table(grid_of(noise=0.004, seed=seed))).forms[0].laws
        (law,) = [one for one in laws if one.columns == tuple(TRUE)]
        for name, true in TRUE.items():
            low, high = law.bounds(f"exponent[{name}]")
            hits[name] += low < true < high
    assert min(hits.values()) >= 8


def test_a_law_of_unequal_errors_is_weighted_least_squares_by_the_normal_equations():
    """Its covariance too, the constants' part included: of two models, each with its own."""
    rng = np.random.default_rng(5)
    models, columns = ("dense", "peer"), ("n_params", "n_tokens")
    cells = [
        cell_of(best(N, D) * np.exp(off * rng.normal()), off, model=model, n_params=N, n_tokens=D)
        for model, off in (("dense", 0.05), ("peer", 0.3))
        for N in SIZES
        for D in TOKENS[: 3 if N < 1e8 else 2]
    ]
    law = fit_law(cells, models, columns)
    X = np.array(
        [[c.model == "dense", c.model == "peer", *np.log([*c.at.values()])] for c in cells], float
    )
    y = np.log([c.lr_opt for c in cells])
    W = np.diag([1 / (c.error**2 + law.tau**2) for c in cells])
    inverse = np.linalg.inv(X.T @ W @ X)
    theta = inverse @ X.T @ W @ y
    scale = max(1.0, (y - X @ theta) @ W @ (y - X @ theta) / (len(cells) - 4))
    np.testing.assert_allclose(law.theta, theta, rtol=1e-6)
    np.testing.assert_allclose(law.covariance, scale * inverse, rtol=1e-6)


def test_equal_errors_make_it_ordinary_least_squares():
    """Against numpy: cells whose errors are unknown weigh the same."""
    rng = np.random.default_rng(0)
    cells = [
        cell_of(best(N, D) * np.exp(0.2 * rng.normal()), np.nan, n_params=N, n_tokens=D)
        for N in SIZES
        for D in TOKENS
    ]
    law = fit_law(cells, ("dense",), ("n_params", "n_tokens"))
    X = np.array([[1, np.log(c.at["n_params"]), np.log(c.at["n_tokens"])] for c in cells])
    y = np.log([c.lr_opt for c in cells])
    theta, squares, *_ = np.linalg.lstsq(X, y)
    covariance = np.linalg.inv(X.T @ X) * squares[0] / 6
    np.testing.assert_allclose(law.theta, theta, rtol=1e-6)
    np.testing.assert_allclose(np.diag(law.covariance), np.diag(covariance), rtol=1e-5)
    # AICc of the normal likelihood with 4 parameters, the variance being one
    deviance = 9 * (np.log(2 * np.pi * squares[0] / 9) + 1)
    assert law.aicc == pytest.approx(deviance + 8 + 2 * 4 * 5 / (9 - 5), rel=1e-6)


def test_the_held_out_factor_is_that_of_refits():
    rng = np.random.default_rng(5)
    cells = [
        cell_of(best(N, D) * np.exp(0.1 * rng.normal()), np.nan, n_params=N, n_tokens=D)
        for N in SIZES
        for D in TOKENS
    ]
    forms = compare_forms(cells, ["n_params", "n_tokens"])
    (law,) = [one for one in forms.laws if one.columns == ("n_params",)]
    x = np.log([c.at["n_params"] for c in cells])
    y = np.log([c.lr_opt for c in cells])
    off = []
    for i in range(len(cells)):
        line = np.polyfit(np.delete(x, i), np.delete(y, i), 1)
        off.append(abs(y[i] - np.polyval(line, x[i])))
    assert law.held_out == pytest.approx(np.exp(np.median(off)), rel=1e-6)


def test_forms_that_cells_held_out_prefer_are_named():
    """Of six cells AICc takes a slope of -0.6 for too dear, and cells held out do not."""
    rng = np.random.default_rng(0)
    cells = [
        cell_of(c * N**-0.6 * np.exp(0.3 * rng.normal()), 0.01, model, n_params=N)
        for model, c in (("dense", 20.0), ("peer", 10.0))
        for N in SIZES
    ]
    forms = compare_forms(cells, ["n_params"])
    assert [law.label for law in forms.laws] == ["constant", "n_params"]
    ours, other = (law.held_out for law in forms.laws)
    assert forms.warnings[-1] == (
        f"cells that were held out prefer n_params: it misses them by a factor of {other:.3g}, "
        f"beside {ours:.3g}"
    )
    assert np.log(other) < 0.7 * np.log(ours)


def test_models_share_exponents_and_have_their_own_constants():
    parts = [grid_of(model="dense"), grid_of(model="peer", coefficient=10.0)]
    found = fit_rates(check_table(pd.concat(parts, ignore_index=True)))
    assert [one.models for one in found.forms] == [("dense",), ("peer",), ("dense", "peer")]
    law = found.forms[-1].law
    assert law.exponents == pytest.approx(TRUE, rel=1e-6)
    assert law.params["coefficient[dense]"] == pytest.approx(20, rel=1e-5)
    assert law.params["coefficient[peer]"] == pytest.approx(10, rel=1e-5)
    at = {"n_params": 1e8, "n_tokens": 1e10}
    assert law.predict(at, "peer").value == pytest.approx(best(1e8, 1e10, 10.0), rel=1e-6)
    with pytest.raises(ValueError, match="model=None is not one of dense, peer"):
        law.predict(at)
    with pytest.raises(ValueError, match="at has no n_tokens; the law is of n_params"):
        law.predict({"n_params": 1e8}, "peer")


# Published runs


def test_step_law_s_best_rates(published):
    """Li 2025 (arXiv:2503.04715): lr* = 1.79 N^-0.713 D^0.307 at the best batch.

    All three are in the intervals of skewed curves, and of parabolas of seven rates. Of five, N's
    exponent is steeper.
    """
    table = load_table(published("steplaw_dense_1911.csv"))
    skewed = fit_rates(table)
    seven = fit_rates(table, method="parabola", n_nearest=7)
    for name, theirs in (
        ("coefficient", 1.79), ("exponent[n_params]", -0.713), ("exponent[n_tokens]", 0.307),
    ):  # fmt: skip
        for forms in (skewed.forms[0], seven.forms[0]):
            low, high = forms.law.bounds(name)
            assert low < theirs < high
    assert "misfit: all 17 cells of model" in skewed.warnings
    assert {len(cell.fitted) for cell in skewed.cells} <= set(range(4, 11))
    found = fit_rates(table, method="parabola")
    law = found.forms[0].law
    assert law.columns == ("n_params", "n_tokens")
    low, high = law.bounds("exponent[n_tokens]")
    assert low < 0.307 < high
    low, high = law.bounds("exponent[n_params]")
    assert -1.0 < low < high < -0.7
    N, D = ([cell.at[name] for cell in found.cells] for name in law.columns)
    theirs = 1.79 * np.array(N) ** -0.713 * np.array(D) ** 0.307
    ours = law.predict({"n_params": N, "n_tokens": D}).value
    assert np.abs(np.log(ours / theirs)).max() < np.log(1.3)


def test_step_law_s_rates_by_batch(published):
    """A parabola a cell by numpy, and the law of these cells.

    At given batches the best rate goes with the batch, and little with the tokens.
    """
    table = load_table(published("steplaw_dense_1911.csv"))
    found = fit_rates(table, batch="bs", method="parabola")
    given = pd.read_csv(published("steplaw_dense_1911.csv"))
    assert len(found.cells) + len(found.skipped) == len(given.groupby(["N", "D", "bs"]))
    for cell in found.cells[::20]:
        at = cell.at
        own = given[(given["N"] == at["n_params"]) & (given["D"] == at["n_tokens"])]
        own = own[own["bs"] == at["bs"]].sort_values("lr")
        u, losses = np.log(own["lr"].to_numpy()), own["smooth loss"].to_numpy()
        near = np.argsort(np.abs(u - u[losses.argmin()]), kind="stable")[:5]
        a, b, _ = np.polyfit(u[near], losses[near], 2)
        if cell.inside:
            assert cell.lr_opt == pytest.approx(np.exp(-b / (2 * a)), rel=1e-6)
    by_label = {law.label: law for law in found.forms[0].laws}
    full = by_label["n_params + n_tokens + bs"]
    low, high = full.bounds("exponent[bs]")
    assert 0.2 < low < high < 0.4
    low, high = full.bounds("exponent[n_tokens]")
    assert high < 0.2


def test_a_new_cell_s_interval_holds_its_best_rate_tried(published):
    found = unseen(load_table(published("steplaw_dense_1911.csv")))
    assert len(found) == 17
    assert found["of_a_new_cell"].mean() >= 0.9 > found["by_law"].mean()
    assert found["cost"].max() < 0.004  # nats, as docs/rates.md says


def test_what_a_law_misses_of_cells_held_out_is_by_hand():
    rng = np.random.default_rng(1)
    sizes = np.geomspace(1e7, 1e9, 6)
    lrs = np.geomspace(1e-4, 1e-2, 9)
    rows = []
    for size in sizes:
        place = -0.5 * np.log(size) + 3 + rng.normal(0, 0.2)
        loss = 3 + 0.05 * (np.log(lrs) - place) ** 2 + rng.normal(0, 0.002, len(lrs))
        rows += [
            {"model": "m", "n_params": size, "n_tokens": 20 * size, "lr": lr, "loss": value}
            for lr, value in zip(lrs, loss, strict=True)
        ]
    table = check_table(pd.DataFrame(rows))
    found = fit_rates(table)
    law = next(law for law in found.forms[0].laws if law.columns == ("n_params",))
    off, costs = [], []
    for cell in found.cells:
        others = [one for one in found.cells if one is not cell]
        X = np.array([[1.0, np.log(one.at["n_params"])] for one in others])
        y = np.log([one.lr_opt for one in others])
        root = 1 / np.sqrt(np.array([one.error for one in others]) ** 2 + law.tau**2)
        theta = np.linalg.lstsq(X * root[:, None], y * root)[0]
        rate = theta[0] + theta[1] * np.log(cell.at["n_params"])
        off.append(np.log(cell.lr_tried) - rate)
        costs.append(np.interp(rate, np.log(cell.lrs), cell.losses) - min(cell.losses))
    assert law.missed == pytest.approx(np.sqrt(np.mean(np.square(off))), rel=1e-6)
    np.testing.assert_allclose(law.costs, costs, atol=1e-8)
    at = {"n_params": 3e9}
    narrow, wide = law.predict(at), law.predict(at, new_cell=True)
    more = stats.t.ppf(0.975, law.dof) * law.missed
    reach = np.hypot(np.log(narrow.upper / narrow.value), more)
    np.testing.assert_allclose(np.log(wide.upper / wide.value), reach)
    np.testing.assert_allclose(np.log(wide.value / wide.lower), reach)
    with pytest.raises(ValueError, match="give more cells"):
        replace(law, missed=float("nan")).predict(at, new_cell=True)
