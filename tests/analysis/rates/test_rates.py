"""Best rates by numpy's polyfit, their flags, refusals and the command."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.__main__ import main
from analysis.figures import draw_rate_curves, draw_rates
from analysis.fitting.status import FitError
from analysis.isoflop.flags import Flag
from analysis.isoflop.shape import fit_parabola
from analysis.rates.fit import fit_rates
from analysis.rates.flags import check_rates
from analysis.table.load import check_table
from tests.analysis.rates.made import GRID, SIZES, TRUE, best, grid_of, tuned

# Cells


def test_a_best_rate_is_that_of_polyfit():
    """Place, standard error and Fieller's interval, from numpy's parabola of the five nearest."""
    frame = tuned(0.01, 0.009 * GRID, noise=0.003)
    (cell,) = fit_rates(check_table(frame), method="parabola").cells
    u, losses = np.log(frame["lr"].to_numpy()), frame["loss"].to_numpy()
    nearest = np.argsort(np.abs(u - u[losses.argmin()]), kind="stable")[:5]
    u, losses = u[nearest], losses[nearest]
    (a, b, c), unscaled = np.polyfit(u, losses, 2, cov="unscaled")
    sd = np.sqrt(np.sum((losses - np.polyval([a, b, c], u)) ** 2) / 2)
    assert (len(cell.fitted), cell.dof) == (5, 2)
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


def test_noise_is_of_the_scatter_and_the_seeds_together():
    """Of one seed: what a mean over two scatters counts twice. A cell has the seeds of the rate
    that has fewest.
    """
    rates, off = (0.004, 0.009, 0.02, 0.03), np.array([0.001, -0.003, 0.002, 0.004])
    rng, parts = np.random.default_rng(0), []
    for n_tokens, seeds in ((1e9, (4, 2, 3, 4)), (4e9, (2, 1, 3, 2))):
        frame = tuned(0.01, rates, n_tokens=n_tokens)
        frame["loss"] += off * n_tokens / 1e9
        parts += [
            frame.iloc[[i]].assign(seed=seed, loss=lambda f: f["loss"] + 0.003 * rng.normal())
            for i, n in enumerate(seeds)
            for seed in range(n)
        ]
    runs = pd.concat(parts, ignore_index=True)
    found = fit_rates(check_table(runs), method="parabola")
    means = runs.groupby(["n_tokens", "lr"])["loss"].mean()
    apart = ((runs["loss"] - runs.groupby(["n_tokens", "lr"])["loss"].transform("mean")) ** 2).sum()
    u = np.log(rates)
    rss = [np.polyfit(u, means[n].to_numpy(), 2, full=True)[1][0] for n in (1e9, 4e9)]
    dof = 2 + 13  # four rates a cell and three numbers of each; 21 runs at 8 rates
    sd = np.sqrt((2 * rss[0] + 1 * rss[1] + apart) / dof)
    assert [cell.n_seeds for cell in found.cells] == [2, 1]
    assert [cell.dof for cell in found.cells] == [dof, dof]
    assert [cell.noise for cell in found.cells] == pytest.approx([sd / np.sqrt(2), sd], rel=1e-6)


def test_noise_is_pooled_over_a_model_s_cells():
    found = fit_rates(check_table(grid_of(noise=0.004)), method="parabola")
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
        ((0.005, 0.01, 0.02), Flag.FEW_POINTS, "3 rates: no residual to judge the curve by"),
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
    given = u, losses, np.empty(0), fit_parabola(u, losses), np.log(0.01)
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


@pytest.mark.parametrize(
    ("diverged", "text"),
    [
        ((0.015, 0.06, 0.08), "the best rate is the largest below 0.06, which diverged"),
        ((0.004, 0.015), "the largest rate is the best: try larger ones"),
        ((0.02,), "the largest rate is the best: try larger ones"),
    ],
)
def test_only_what_diverged_above_all_rates_is_an_edge_s_reason(diverged, text):
    frame = tuned(0.03, (0.005, 0.01, 0.02))
    u, losses = np.log(frame["lr"].to_numpy()), frame["loss"].to_numpy()
    u[-1] = np.nextafter(np.log(0.02), 1)  # whose rate is 0.02 or a bit above
    shape = fit_parabola(u, losses)
    found = check_rates(u, losses, np.array(diverged), shape, shape.u_opt, (u[0], u[-1]))
    assert any(why.startswith(text) for flag, why in found if flag is Flag.EDGE)


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
    assert found.skipped == ("dense n_tokens=2B: 2 rates, and a curve needs 3",)
    with pytest.raises(FitError, match=r"no best rate: dense: 2 rates, and a curve needs 3"):
        fit_rates(check_table(tuned(0.01, (0.01, 0.02))))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"width": "size"}, "width='size' is not one of d_model, n_params"),
        ({"horizon": "days"}, "horizon='days' is not one of n_tokens, n_steps"),
        ({"batch": "bs"}, "batch='bs' is no column; found series"),
        ({"batch": "model"}, "batch='model' has values that are no numbers above 0"),
        ({"method": "akima"}, "method='akima' is not one of slice, parabola"),
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
    assert (folder / "rate_curves.png").stat().st_size > 1000
    values = json.loads((folder / "rates.json").read_text())
    assert values["forms"][0]["chosen"] == "n_params + n_tokens"
    assert len(values["cells"]) == 9
    assert main(["rates", str(path), "--json", "--batch", "bs"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][-1] == "bs"
    assert main(["rates", str(path), "--batch", "batch"]) == 2
    assert capsys.readouterr().err.startswith("error: --batch batch is no column; found")


def test_the_figure_has_each_cell_and_the_law():
    """Against the column of the largest effect, the other one at its geometric mean."""
    found = fit_rates(check_table(grid_of()), method="parabola")
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


def test_points_of_models_at_one_place_stand_side_by_side_in_one_order():
    frame = pd.concat([grid_of(model=model) for model in ("dense", "peer", "pkm")])
    found = fit_rates(check_table(frame), method="parabola")
    axis = draw_rates(found).axes[0]
    points = [
        line.get_xdata()[0]
        for line in axis.lines
        if line.get_marker() != "None" and len(line.get_xdata()) == 1
    ]
    assert len(points) == len(found.cells) == 27
    moved = {(cell.model, place / cell.at["n_params"]) for cell, place in zip(found.cells, points)}
    factors = {model: [f for name, f in moved if name == model] for model, _ in moved}
    assert max(factors["dense"]) < min(factors["peer"]) == pytest.approx(1)
    assert max(factors["peer"]) < min(factors["pkm"]) < 1.1
    assert axis.get_xlim()[0] < min(points) < max(points) < axis.get_xlim()[1]


def test_the_curves_are_the_losses_tried_and_the_stars_the_minima():
    found = fit_rates(check_table(grid_of(noise=0.002)), noise=0.002)
    (axis,) = draw_rate_curves(found).axes
    curves = [line for line in axis.lines if len(line.get_xdata()) > 1]
    stars = [line for line in axis.lines if line.get_marker() == "*"]
    assert len(curves) == len(stars) == len(found.cells) == 9
    for cell, curve, star in zip(found.cells, curves, stars, strict=True):
        np.testing.assert_allclose(curve.get_xdata(), cell.lrs)
        np.testing.assert_allclose(curve.get_ydata(), np.array(cell.losses) - min(cell.losses))
        assert star.get_xdata()[0] == cell.lr_opt
        assert axis.get_ylim()[0] < star.get_ydata()[0] < axis.get_ylim()[1]
    assert len({line.get_color() for line in curves}) == 9
    entries = [entry.get_text() for entry in axis.get_legend().get_texts() if entry.get_text()]
    assert [found.cells[0].name, found.cells[-1].name] == [f"dense {entry}" for entry in entries]
