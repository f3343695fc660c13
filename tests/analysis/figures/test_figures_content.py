"""Each figure shows what its results say: panels, stars, lines, labels."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from analysis import figures, numbers
from analysis.fitting.status import FitStatus

mpl.use("Agg")
from tests.analysis.figures.drawn import (
    ALL,
    BUDGETS,
    active_table,
    contrasts,
    is_hollow,
    isoflop,
    law_of_experts,
    laws_compared,
    legend_labels,
    multipliers,
    residual_frame,
    stars,
    surface,
    sweep,
    usage_table,
    usual,
)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_isoflop_has_a_panel_a_budget_and_a_star_a_minimum():
    table, fit = usual()
    figure = figures.draw_isoflop(table, fit)
    assert [axis.get_title() for axis in figure.axes] == [
        f"{numbers.flops_mathtext(C)} FLOPs" for C in BUDGETS
    ]
    assert figure.axes[-1].get_xlabel() == "total parameters (log scale)"
    assert figure.axes[0].get_ylabel() == "perplexity per token (log)"
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    for axis, C in zip(figure.axes, BUDGETS, strict=True):
        inside = [c for c in fit.curves if c.budget == C and c.x_min <= c.x_opt <= c.x_max]
        assert len(stars(axis)) == len(inside) > 0
        for curve, star in zip(inside, stars(axis), strict=True):
            assert star.get_xdata()[0] == curve.x_opt
            assert star.get_ydata()[0] == pytest.approx(np.exp(curve.loss_opt))
            assert is_hollow(star) == (curve.status is not FitStatus.CONVERGED)
    labels = legend_labels(figure)
    assert labels[:4] == ["dense", "moe", "peer n_experts=4096", "peer n_experts=65536"]
    assert {"minimum", "95 % interval", "all runs"} <= set(labels)


def test_curves_with_warnings_are_dashed_and_hollow():
    table = sweep(BUDGETS[:1], {("dense", None): 0.0}, noise=0)
    table.loc[table["status"] == "done", "loss"] += [0, 0.15, 0, 0, 0, 0, 0]  # off any parabola
    fit = isoflop(table)
    assert fit.curves[0].status is FitStatus.WARNING
    figure = figures.draw_isoflop(table, fit)
    (star,) = stars(figure.axes[0])
    assert is_hollow(star)
    curve = max(figure.axes[0].lines, key=lambda line: len(line.get_xdata()))
    assert curve.get_linestyle() == "--"
    assert "minimum with a warning" in legend_labels(figure)


def test_rows_hold_four_panels_and_only_outer_ones_have_labels():
    figure = ALL["isoflop, 12 budgets"]()
    assert len(figure.axes) == 12
    assert {axis.get_subplotspec().colspan.start for axis in figure.axes} == {0, 1, 2, 3}
    assert [bool(axis.get_xlabel()) for axis in figure.axes] == [False] * 8 + [True] * 4
    assert [bool(axis.get_ylabel()) for axis in figure.axes] == [True, False, False, False] * 3


def test_together_is_one_panel_with_all_budgets():
    table = sweep(BUDGETS[:2])
    fit = isoflop(table)
    figure = figures.draw_isoflop(table, fit, together=True)
    (axis,) = figure.axes
    assert len(stars(axis)) == sum(c.x_min <= c.x_opt <= c.x_max for c in fit.curves)
    assert {f"{numbers.flops_mathtext(C)} FLOPs" for C in BUDGETS[:2]} <= set(legend_labels(figure))
    curves = [line for line in axis.lines if len(line.get_xdata()) == 200]
    assert len({str(line.get_linestyle()) for line in curves}) == 2


def test_runs_far_above_the_curves_do_not_set_the_scale():
    table = sweep(BUDGETS[:1], {("dense", None): 0.0})
    bad = table[table["status"] == "done"].assign(loss=9.0, lr=1.0)
    both = pd.concat([table.assign(lr=0.1), bad], ignore_index=True)
    figure = figures.draw_isoflop(both, isoflop(both))
    assert figure.axes[0].get_ylim()[1] < np.exp(5)
    assert "beyond the axis" in legend_labels(figure)


def test_whiskers_end_at_the_axis():
    table = sweep(BUDGETS[:2], {("dense", None): 0.0}, n_sizes=6, noise=0.01, curvature=0.01)
    figure = figures.draw_isoflop(table, isoflop(table))
    for axis in figure.axes:
        low, high = axis.get_xlim()
        for line in axis.lines:
            x = np.asarray(line.get_xdata(), dtype=float)
            assert ((x >= low) & (x <= high)).all()


def test_a_model_has_the_same_colour_in_every_figure():
    table, fit = usual()
    dense = to_rgb(figures.MODEL_COLOURS["dense"])
    for figure in (
        figures.draw_isoflop(table, fit),
        figures.draw_laws(fit),
        figures.draw_frontier(table, fit),
        figures.draw_residuals(residual_frame()),
    ):
        handles = [h for legend in figure.legends for h in legend.legend_handles]
        of = {handle.get_label().split("\n")[0]: handle for handle in handles}
        assert to_rgb(of["dense"].get_color()) == dense
        shades = {to_rgb(of[f"peer n_experts={n}"].get_color()) for n in (4096, 65536)}
        assert len(shades) == 2


def test_named_models_keep_their_colours_among_fewer():
    table = sweep(BUDGETS[:1], {("zebra", None): 0.0})

    def colour():
        figure = figures.draw_isoflop(table, isoflop(table))
        return figure.legends[0].legend_handles[0].get_color()

    with figures.style(models=["aardvark", "zebra"]):
        among_two = colour()
    assert among_two != colour()
    with figures.style(models=["zebra"]):
        assert colour() != among_two


def test_laws_show_exponents_with_intervals_and_units():
    _, fit = usual()
    figure = figures.draw_laws(fit)
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "best total parameters (log)",
        "best active parameters (log)",
        "best training tokens (log)",
        "held-out loss (nats/token, log)",
    ]
    law = fit.law("dense").laws["n_params"]
    low, high = law.bounds("exponent")
    assert 0.4 < low < high < 0.6
    legend = figure.axes[0].get_legend()
    assert "exponent (95 % interval)" in legend.get_title().get_text()
    assert f"{law.exponent:.3f} ({low:.3f} to {high:.3f})" in [
        text.get_text() for text in legend.get_texts()
    ]
    assert all(axis.collections for axis in figure.axes)  # the bands
    assert "95 % interval of the law" in legend_labels(figure)
    figures.relabel(figure, "nats/byte")
    assert figure.axes[-1].get_ylabel() == "held-out loss (nats/byte, log)"


def test_minima_left_out_of_a_law_are_hollow():
    table = sweep(models={("dense", None): 0.0})
    keep = (table["budget"] > BUDGETS[0]) | (table["n_params"] > 2.5e7)  # the minimum is below
    table = table[keep]
    fit = isoflop(table)
    assert [c.inside for c in fit.curves] == [False, True, True, True, True]
    figure = figures.draw_laws(fit)
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [is_hollow(point) for point in points] == [True, False, False, False, False]
    assert "excluded from the law" in legend_labels(figure)


def test_the_frontier_has_its_floor_where_it_is_told():
    table = sweep([1e15 * 4**i for i in range(8)], {("dense", None): 0.0}, noise=0)
    fit = isoflop(table)
    E = fit.law().loss.params["E"]
    assert pytest.approx(1.8, abs=0.05) == E
    figure = figures.draw_frontier(table, fit)
    (axis,) = figure.axes
    assert any(set(line.get_ydata()) == {E} for line in axis.lines)
    assert axis.get_ylim()[0] < E
    assert "floor E" in legend_labels(figure)
    assert figure.legends[0].get_texts()[0].get_text().startswith("dense\n−0.0")


def test_experts_show_sizes_slopes_seeds_and_the_law():
    figure = law_of_experts()
    (axis,) = figure.axes
    assert axis.get_xlabel() == "number of experts (log scale)"
    assert [numbers.experts(v) for v in axis.get_xticks()] == ["1", "16k", "65k", "262k", "1M"]
    labels = legend_labels(figure)
    assert labels[0].startswith("2M: 0.0")
    assert labels[1].startswith("8M: 0.0")
    assert "mean of seeds" in labels
    assert any("power_floor (rmse" in label for label in labels)
    assert len(axis.collections) == 2  # a band a size
    title = figure.legends[0].get_title().get_text()
    assert title == "parameters without experts:\n−d ln L / d ln E (95 % interval)"
    means = [line for line in axis.lines if line.get_markersize() == 5]
    assert [len(line.get_xdata()) for line in means] == [5, 5]


def test_laws_compared_have_styles_and_no_bands():
    figure = laws_compared()
    (axis,) = figure.axes
    assert not axis.collections
    lines = [line for line in axis.lines if len(line.get_xdata()) > 100]
    assert len(lines) == 6
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 3


def test_experts_of_one_of_several_models():
    table = sweep(BUDGETS[:1])
    figure = figures.draw_experts(table, model="peer", size_name="n_active_params")
    assert len(figure.axes[0].lines) == 2 * 7  # of each size the runs and the best


def test_active_rings_the_best_of_each_line():
    figure = figures.draw_active(active_table())
    (axis,) = figure.axes
    assert axis.get_title() == "peer, 1M experts"
    assert axis.get_xlabel() == "retrieval heads h (log scale)"
    assert sorted(text.get_text() for text in axis.texts) == [
        f"hk={n}" for n in (128, 256, 32, 512, 64)
    ]
    rings = [line for line in axis.lines if line.get_markersize() == 10]
    assert [int(ring.get_xdata()[0]) for ring in rings] == [2, 4, 8, 16, 16]


def test_usage_is_three_panels_by_setting():
    figure = figures.draw_usage(usage_table())
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "experts used (%)",
        "unevenness (nats)",
        "perplexity per token (log)",
    ]
    batch, none = figure.axes[0].lines
    assert list(none.get_ydata()) == pytest.approx([100, 100, 100, 99.8])
    assert legend_labels(figure) == ["peer, query_norm=batch", "peer, query_norm=none"]
    assert is_hollow(none)
    assert not is_hollow(batch)


def test_usage_is_the_mean_over_seeds_of_the_heads_with_most_numbers_of_experts():
    table = usage_table().assign(n_heads=8, top_k=16)
    other = table.iloc[:1].assign(n_heads=16, loss=0.1, unevenness=9.0)  # the best, one number only
    second = table.assign(seed=1, unevenness=table["unevenness"] + 0.2, loss=table["loss"] + 0.1)
    every = pd.concat([table.assign(seed=0), other, second], ignore_index=True)
    _, none = figures.draw_usage(every).axes[1].lines
    assert list(none.get_ydata()) == pytest.approx([0.55, 0.73, 1.07, 1.62])


def test_residuals_have_a_panel_for_what_varies():
    frame = residual_frame()
    figure = figures.draw_residuals(frame)
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "total parameters (log scale)",
        "training tokens (log scale)",
        "training compute (FLOPs, log scale)",
        "number of experts (log scale)",
    ]
    sd = 100 * frame["residual"].std()
    assert f"± 1 s.d. = {sd:.2g} %" in legend_labels(figure)
    one = figures.draw_residuals(frame[["series", "model", "n_params", "residual"]])
    assert len(one.axes) == 1


def test_contours_label_their_losses_and_colour_the_runs():
    fit, table = surface()
    figure = figures.draw_contours(fit, table)
    axis, bar = figure.axes
    assert "nats/token" in bar.get_xlabel()
    labels = [float(text.get_text()) for text in axis.texts]
    assert len(labels) >= 4
    points = next(c for c in axis.collections if len(c.get_offsets()) > 1)
    assert len(points.get_offsets()) == (table["status"] == "done").sum()
    assert "runs of a budget" in legend_labels(figure)
    bare = figures.draw_contours(*surface(status=False))
    assert "runs of a budget" not in legend_labels(bare)


def test_a_layer_of_one_setting_is_named_alone_in_the_legend():
    table = usage_table().assign(**{"model": "moe", "layer.query_norm": pd.NA})
    assert legend_labels(figures.draw_usage(table)) == ["moe"]


def test_a_forest_has_a_row_a_model_and_hollow_points_beyond_the_budgets():
    found = multipliers()
    figure = figures.draw_forest(found, [1e17, BUDGETS[-1]], [2.9])
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(found.models)
    for axis, budget in zip(figure.axes, (1e17, BUDGETS[-1]), strict=False):
        points = [line for line in axis.lines if line.get_marker() not in ("None", None)]
        at = {m: found.at_compute(m, budget) for m in found.models}
        assert len(points) == len(at)
        for line in points:
            one = at[labels[int(line.get_ydata()[0])]]
            assert line.get_xdata()[0] == pytest.approx(one.value)
            assert is_hollow(line) == one.extrapolated
        assert any(list(line.get_xdata()) == [1, 1] for line in axis.lines)


def test_multipliers_of_a_contrast_are_a_line_a_layer_hollow_beyond_the_frontier():
    found = contrasts()
    figure = figures.draw_contrast_multipliers(found, {"another study": (1.65, 1.91)})
    assert [axis.get_title() for axis in figure.axes] == ["of dense's compute", "of moe's compute"]
    for axis, baseline in zip(figure.axes, ("dense", "moe"), strict=True):
        own = [one for one in found.differences if one.baseline == baseline]
        points = [line for line in axis.lines if len(line.get_xdata()) == 1]
        drawn = sorted((p.get_ydata()[0], p.get_xdata()[0], is_hollow(p)) for p in points)
        bars = {bar[0, 0]: bar[:, 1] for each in axis.collections for bar in each.get_segments()}
        low, high = axis.get_ylim()
        own.sort(key=lambda one: one.multiplier.value)
        for (value, at, hollow), one in zip(drawn, own, strict=True):
            assert (value, hollow) == (one.multiplier.value, one.beyond)
            assert at == pytest.approx(one.budgets[0], rel=0.1)  # layers stand side by side
            bounds = np.clip(one.multiplier[1:], low / 10, high * 10)
            assert bars.pop(at) == pytest.approx(bounds)
        assert not bars
        assert low < 1 < high
        assert high > 1.91
        stripe = axis.patches[0].get_extents().transformed(axis.transData.inverted())
        assert (stripe.y0, stripe.y1) == pytest.approx((1.65, 1.91))
    labels = legend_labels(figure)
    assert "another study" in labels
    assert ("beyond its budgets" in labels) == any(one.beyond for one in found.differences)
