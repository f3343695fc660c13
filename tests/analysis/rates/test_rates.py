"""Best rates by numpy's polyfit, laws that are known, refusals, and Step Law's runs."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.__main__ import main
from analysis.figures import draw_rates
from analysis.fitting.status import FitError
from analysis.isoflop.flags import Flag
from analysis.isoflop.shape import fit_parabola
from analysis.rates.cells import BestRate
from analysis.rates.compare import compare_forms
from analysis.rates.fit import fit_rates
from analysis.rates.flags import check_rates
from analysis.rates.law import fit_law
from analysis.table.load import check_table, load_table

SIZES, TOKENS = (1e7, 3e7, 1e8), (1e9, 4e9, 1.6e10)
TRUE = {"n_params": -0.6, "n_tokens": 0.25}
GRID = 2 ** np.arange(-2, 2.5, 0.5)


def best(n_params, n_tokens, coefficient=20.0):
    return coefficient * n_params ** TRUE["n_params"] * n_tokens ** TRUE["n_tokens"]


def tuned(lr_opt, rates, noise=0.0, rng=None, **columns):
    """A row a rate: a parabola of curvature 0.05 nats in ln(rate)^2 about lr_opt."""
    draws = noise * (rng or np.random.default_rng(0)).normal(size=len(rates))
    losses = 3 + 0.05 * np.log(np.asarray(rates) / lr_opt) ** 2 + draws
    base = {"model": "dense", "n_params": 1e7, "n_tokens": 1e9, "status": "done"}
    return pd.DataFrame({**base, **columns, "lr": rates, "loss": losses})


def grid_of(noise=0.0, seed=0, coefficient=20.0, **columns):
    rng = np.random.default_rng(seed)
    parts = []
    for N in SIZES:
        for D in TOKENS:
            at = best(N, D, coefficient)
            where = {"n_params": N, "n_tokens": D, **columns}
            parts.append(tuned(at, 1.1 * at * GRID, noise, rng, **where))
    return pd.concat(parts, ignore_index=True)


# Cells


def test_a_best_rate_is_that_of_polyfit():
    """Place, standard error and Fieller's interval, from numpy's parabola of the five nearest."""
    frame = tuned(0.01, 0.009 * GRID, noise=0.003)
    (cell,) = fit_rates(check_table(frame)).cells
    u, losses = np.log(frame["lr"].to_numpy()), frame["loss"].to_numpy()
    nearest = np.argsort(np.abs(u - u[losses.argmin()]), kind="stable")[:5]
    u, losses = u[nearest], losses[nearest]
    (a, b, c), unscaled = np.polyfit(u, losses, 2, cov="unscaled")
    sd = np.sqrt(np.sum((losses - np.polyval([a, b, c], u)) ** 2) / 2)
    assert (cell.n_fitted, cell.dof) == (5, 2)
    assert cell.lr_opt == pytest.approx(np.exp(-b / (2 * a)), rel=1e-9)
    assert cell.loss_opt == pytest.approx(c - b**2 / (4 * a), rel=1e-9)
    assert cell.noise == pytest.approx(sd, rel=1e-6)
    covariance = sd**2 * unscaled
    gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    assert cell.error == pytest.approx(np.sqrt(gradient @ covariance @ gradient), rel=1e-5)
    # The slope 2 a u + b is t standard errors from 0 at both ends
    for end in np.log(cell.lr_interval):
        row = np.array([2 * end, 1.0, 0.0])
        t = (2 * a * end + b) / np.sqrt(row @ covariance @ row)
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, 2), rel=1e-4)


def test_seeds_are_averaged_within_a_rate():
    """The lowest loss is a lucky seed's at another rate, and it does not count."""
    rates = [0.005, 0.01, 0.02]
    frame = pd.concat([tuned(0.01, rates, seed=seed) for seed in (0, 1)], ignore_index=True)
    frame.loc[(frame["lr"] == 0.02) & (frame["seed"] == 0), "loss"] -= 0.2
    frame.loc[(frame["lr"] == 0.02) & (frame["seed"] == 1), "loss"] += 0.2
    (cell,) = fit_rates(check_table(frame)).cells
    assert cell.n_seeds == 2
    assert cell.losses == pytest.approx(3 + 0.05 * np.log(np.array(rates) / 0.01) ** 2)
    assert cell.lr_tried == pytest.approx(0.01)
    # A known noise of one seed is less of a mean over two
    (cell,) = fit_rates(check_table(frame), noise=0.01).cells
    assert cell.noise == pytest.approx(0.01 / np.sqrt(2))


def test_noise_is_pooled_over_a_model_s_cells():
    found = fit_rates(check_table(grid_of(noise=0.004)))
    assert {cell.dof for cell in found.cells} == {9 * 2}
    squares = 0.0
    for cell in found.cells:
        u, losses = np.log(cell.lrs), np.array(cell.losses)
        near = np.argsort(np.abs(u - u[losses.argmin()]), kind="stable")[:5]
        squares += np.polyfit(u[near], losses[near], 2, full=True)[1][0]
    assert found.cells[0].noise == pytest.approx(np.sqrt(squares / 18), rel=1e-6)


@pytest.mark.parametrize(
    ("rates", "flag", "text"),
    [
        ((0.02, 0.03, 0.04, 0.05), Flag.EDGE, "the smallest rate is the best: try smaller ones"),
        ((0.002, 0.003, 0.004, 0.005), Flag.EDGE, "the largest rate is the best: try larger ones"),
        ((0.02, 0.03, 0.04, 0.05), Flag.OUTSIDE, "the best rate is outside of those tried"),
        ((0.005, 0.01, 0.02), Flag.FEW_POINTS, "3 rates: no residual to judge the parabola by"),
    ],
)
def test_flags_of_cells(rates, flag, text):
    found = fit_rates(check_table(tuned(0.01, rates)), noise=1e-4)
    (cell,) = found.cells
    assert dict(zip(cell.flags, cell.warnings, strict=True))[flag] == text
    assert f"{flag}: dense" in found.warnings


def test_a_curve_that_opens_downwards_has_no_best_rate():
    frame = tuned(0.01, (0.005, 0.01, 0.02, 0.04))
    found = fit_rates(check_table(frame.assign(loss=6 - frame["loss"])))
    (cell,) = found.cells
    assert cell.flags == (Flag.WRONG_CURVATURE,)
    assert not cell.inside
    assert found.forms == ()
    assert "no law: 0 of 1 cells have their best rate inside" in found.warnings[-1]


def test_noise_that_hides_the_curvature_is_flagged():
    found = fit_rates(check_table(tuned(0.01, (0.008, 0.01, 0.012, 0.014))), noise=0.1)
    assert Flag.WEAK_CURVATURE in found.cells[0].flags
    frame = tuned(0.01, 0.01 * GRID)
    u, losses = np.log(frame["lr"].to_numpy()), frame["loss"].to_numpy()
    given = u, losses, np.empty(0), fit_parabola(u, losses)
    assert check_rates(*given, (u[0] + 0.1, u[-1] - 0.1)) == []
    for interval in ((u[0] - 0.1, u[-1] - 0.1), (u[0] + 0.1, u[-1] + 0.1)):
        ((flag, text),) = check_rates(*given, interval)
        assert flag is Flag.WIDE
        assert text == "the 95 % interval of the best rate reaches beyond the rates tried"


def test_a_rate_that_diverged_is_an_edge_s_reason():
    lost = tuned(0.01, [0.04]).assign(status="diverged", loss=np.nan)
    frame = pd.concat([tuned(0.03, (0.005, 0.01, 0.02)), lost], ignore_index=True)
    (cell,) = fit_rates(check_table(frame)).cells
    assert cell.diverged == (0.04,)
    assert "the best rate is the largest below 0.04, which diverged: try between" in cell.warnings


def test_cells_outside_are_left_out_of_the_law_and_named():
    frame = grid_of()
    high = (frame["n_params"] == 1e8) & (frame["n_tokens"] == 1e9)
    low = frame["lr"] < best(1e8, 1e9) * 0.9
    found = fit_rates(check_table(frame[~(high & low)]))
    (left,) = found.left_out
    assert left.name == "dense n_params=100M n_tokens=1B"
    assert found.forms[0].law.n_points == 8
    text = (
        "excluded from the laws, for the best rate is not inside: dense n_params=100M n_tokens=1B"
    )
    assert text in found.warnings
    assert found.forms[0].law.exponents == pytest.approx(TRUE, rel=1e-6)


# Laws


def test_a_clean_law_comes_back():
    found = fit_rates(check_table(grid_of()))
    law = found.forms[0].law
    assert law.columns == ("n_params", "n_tokens")
    assert law.exponents == pytest.approx(TRUE, rel=1e-6)
    assert law.params["coefficient"] == pytest.approx(20.0, rel=1e-5)
    assert law.held_out == pytest.approx(1.0, abs=1e-6)
    at = {"n_params": [2e7], "n_tokens": [2e9]}
    assert law.predict(at).value == pytest.approx(best(2e7, 2e9), rel=1e-6)
    assert law.beyond({"n_params": 4e8, "n_tokens": 5e8}) == pytest.approx(4.0)
    assert law.beyond({"n_params": 2e7, "n_tokens": 2e9}) == 1.0


def cell_of(lr_opt, error, model="dense", **at):
    return BestRate(
        model=model, budget=np.nan, at=at, name=model, lrs=(), losses=(), diverged=(), n_seeds=1,
        n_fitted=5, lr_opt=lr_opt, lr_interval=(np.nan, np.nan), error=error, loss_opt=3.0,
        noise=0.0, dof=2, inside=True, flags=(), warnings=(),
    )  # fmt: skip


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


# Refusals


def forms_of(frame, **how):
    return fit_rates(check_table(frame), **how).forms[0]


def test_what_is_not_identifiable_is_named():
    one_length = grid_of()[lambda f: f["n_tokens"] == 1e9]
    forms = forms_of(one_length)
    assert "n_tokens: it is 1e+09, so its exponent is not identifiable" in forms.skipped
    assert "n_layers: the table has none" in forms.skipped
    together = grid_of()[lambda f: f["n_tokens"] / f["n_params"] == 100]
    more = [
        tuned(best(N, 100 * N), best(N, 100 * N) * GRID, n_params=N, n_tokens=100 * N)
        for N in SIZES
    ]
    forms = forms_of(pd.concat([together, *more], ignore_index=True).drop_duplicates())
    assert [law.label for law in forms.laws if len(law.columns) > 1] == []
    text = (
        "n_params and n_tokens vary together (r = 1.000): their exponents are not identifiable "
        "beside each other"
    )
    assert text in forms.skipped
    (law,) = [one for one in forms.laws if one.columns == ("n_params",)]
    assert law.exponents["n_params"] == pytest.approx(sum(TRUE.values()), rel=1e-6)


def test_few_cells_are_refused_with_their_number():
    frame = grid_of()[lambda f: (f["n_params"] != 1e8) & (f["n_tokens"] != 1.6e10)]
    three = frame[(frame["n_params"] == 1e7) | (frame["n_tokens"] == 1e9)]
    forms = forms_of(three)
    assert "n_params + n_tokens: 3 cells for 3 parameters" in forms.skipped
    assert forms.law.columns == ()
    assert "3 cells: too few to compare forms, so the simplest is taken" in forms.warnings
    found = fit_rates(check_table(tuned(0.01, 0.01 * GRID)))
    assert found.why_no_laws.startswith("1 of 1 cells have their best rate inside")


def test_cells_of_few_rates_are_named():
    frame = pd.concat([tuned(0.01, 0.01 * GRID), tuned(0.01, (0.01, 0.02), n_tokens=2e9)])
    found = fit_rates(check_table(frame.reset_index(drop=True)))
    assert found.skipped == ("dense n_tokens=2B: 2 rates, and a parabola needs 3",)
    with pytest.raises(FitError, match=r"no best rate: dense: 2 rates, and a parabola needs 3"):
        fit_rates(check_table(tuned(0.01, (0.01, 0.02))))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"width": "size"}, "width='size' is not one of d_model, n_params"),
        ({"horizon": "days"}, "horizon='days' is not one of n_tokens, n_steps"),
        ({"batch": "bs"}, "batch='bs' is no column; found series"),
        ({"batch": "model"}, "batch='model' has values that are no numbers above 0"),
        ({"n_nearest": 2}, "n_nearest=2 must be 3 or more"),
        ({"noise": 0.0}, "noise=0.0 must be finite and above 0"),
        ({"width": "d_model"}, "rates needs d_model: the table has none"),
    ],
)
def test_bad_arguments(how, match):
    with pytest.raises(ValueError, match=match):
        fit_rates(check_table(tuned(0.01, 0.01 * GRID)), **how)


def test_rates_must_be_known_and_above_0():
    frame = tuned(0.01, 0.01 * GRID)
    with pytest.raises(ValueError, match="rates needs lr: the table has none"):
        fit_rates(check_table(frame.drop(columns="lr")))
    frame.loc[0, "lr"] = 0.0
    with pytest.raises(ValueError, match=r"lr\[0\]=0.0 must be finite and above 0"):
        fit_rates(check_table(frame))


# The command


def test_the_command_writes_fits_and_a_figure(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    grid_of(noise=0.002).assign(bs=256).to_csv(path, index=False)
    assert main(["rates", str(path), "--noise", "0.002"]) == 0
    out = capsys.readouterr().out
    assert "law of dense: lr* = coefficient * n_params^exponent * n_tokens^exponent" in out
    folder = tmp_path / "runs-analysis"
    assert (folder / "rates.png").stat().st_size > 1000
    values = json.loads((folder / "rates.json").read_text())
    assert values["forms"][0]["chosen"] == "n_params + n_tokens"
    assert len(values["cells"]) == 9
    assert main(["rates", str(path), "--json", "--batch", "bs"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][-1] == "bs"
    assert main(["rates", str(path), "--batch", "batch"]) == 2
    assert capsys.readouterr().err.startswith("error: --batch batch is no column; found")


def test_the_figure_has_each_cell_and_the_law():
    """Against the column of the largest effect, the other one at its geometric mean."""
    found = fit_rates(check_table(grid_of()))
    axis = draw_rates(found).axes[0]
    assert axis.get_xlabel().startswith("total parameters")
    assert axis.get_title() == "at n_tokens = 4B, by the law"
    points = {
        (line.get_xdata()[0], round(float(np.log(line.get_ydata()[0])), 6))
        for line in axis.lines
        if line.get_marker() != "None" and len(line.get_xdata()) == 1
    }
    assert points == {(N, round(np.log(best(N, 4e9)), 6)) for N in SIZES}
    (law,) = [line for line in axis.lines if len(line.get_xdata()) == 50]
    np.testing.assert_allclose(law.get_ydata(), best(law.get_xdata(), 4e9), rtol=1e-5)


# Published runs


def test_step_law_s_best_rates(published):
    """Li 2025 (arXiv:2503.04715): lr* = 1.79 N^-0.713 D^0.307 at the best batch.

    Ours is of parabolas about the best, weighted by their errors: D's exponent agrees, N's is
    steeper, and less so the more rates the parabolas are of. At given batches the best rate goes
    with the batch, and what is left for D is small.
    """
    table = load_table(published("steplaw_dense_1911.csv"))
    found = fit_rates(table)
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
    """A parabola a cell by numpy, and the law of these cells."""
    table = load_table(published("steplaw_dense_1911.csv"))
    found = fit_rates(table, batch="bs")
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
