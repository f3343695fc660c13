"""Figures show what the results say, with units, and stay legible on a light and a dark page."""

import itertools
from functools import cache

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from analysis import figures
from analysis.experts import fit_expert_law, size_slopes
from analysis.figures.palette import contrast
from analysis.figures.scales import LogTicks, compact, experts, power
from analysis.isoflop import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.results import FitStatus
from analysis.table import check_table

mpl.use("Agg")
BUDGETS = tuple(1e17 * 4**i for i in range(5))
GAINS = {("dense", None): 0.0, ("moe", 64): 0.04, ("peer", 4096): 0.06, ("peer", 65536): 0.1}


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def sweep(budgets=BUDGETS, models=GAINS, n_sizes=7, noise=0.002, curvature=0.06):
    """Runs about a minimum that grows with compute, and one that failed."""
    rng = np.random.default_rng(0)
    rows = []
    for (model, n_experts), gain in models.items():
        for C in budgets:
            for factor in np.geomspace(0.3, 4, n_sizes):
                N = 2e7 * (C / 1e17) ** 0.5 * factor
                loss = 1.8 + (1.9 - gain) * (C / 1e17) ** -0.08 + curvature * np.log(factor) ** 2
                rows.append(
                    {
                        "model": model,
                        "n_experts": n_experts,
                        "budget": C,
                        "n_active_params": N,
                        "n_params": N + 1024 * (n_experts or 0),
                        "n_tokens": C / 6 / N,
                        "loss": loss + rng.normal(0, noise),
                        "status": "done",
                    }
                )
    return check_table(pd.DataFrame([*rows, {**rows[0], "loss": np.nan, "status": "failed"}]))


def isoflop(table):
    return fit_isoflop(table, n_draws=30)


@cache
def usual():
    """A table and its fit, for reading only."""
    table = sweep()
    return table, isoflop(table)


@cache
def many_budgets():
    table = sweep([1e16 * 2**i for i in range(12)], {("dense", None): 0.0})
    return table, isoflop(table)


@cache
def expert_sweep(n_seeds=3):
    """Two sizes of PEER at five numbers of experts; the baseline is one dense model a size."""
    rng = np.random.default_rng(1)
    rows = []
    for size, seed in itertools.product((2e6, 8e6), range(n_seeds)):
        for n_experts in (None, 16384, 65536, 262144, 1048576):
            loss = 2.2 + 9 * size**-0.11 * (n_experts or 1024) ** -0.035 + rng.normal(0, 0.004)
            rows.append(
                {
                    "model": "peer" if n_experts else "dense",
                    "n_experts": n_experts,
                    "n_active_params": size,
                    "n_params": size + 256 * (n_experts or 0),
                    "budget": 1e16,
                    "n_tokens": 1e16 / 6 / size,
                    "seed": seed,
                    "lr": 1e-3,
                    "loss": loss,
                }
            )
    return check_table(pd.DataFrame(rows))


# He 2024 (arXiv:2407.04153), Fig. 3b, digitised: h k -> h -> perplexity
ACTIVE = {
    32: {2: 21.50, 4: 21.70, 8: 22.30},
    64: {2: 21.11, 4: 21.03, 8: 21.22},
    128: {4: 20.67, 8: 20.64, 16: 20.83},
    256: {4: 20.65, 8: 20.43, 16: 20.42},
    512: {8: 20.32, 16: 20.26, 32: 20.37},
}
# Table 2: experts, then perplexity, usage and unevenness without and with query norm
USAGE = (
    (128**2, (23.47, 1.0, 0.45), (23.47, 1.0, 0.30)),
    (256**2, (22.61, 1.0, 0.63), (22.55, 1.0, 0.44)),
    (512**2, (21.54, 1.0, 0.97), (21.47, 1.0, 0.66)),
    (1024**2, (20.73, 0.998, 1.52), (20.64, 1.0, 1.06)),
)
PEER = {"model": "peer", "budget": 6e18, "n_params": 2e9, "n_active_params": 1.6e8}


def active_table():
    return check_table(
        pd.DataFrame(
            {**PEER, "n_experts": 2**20, "n_heads": h, "top_k": hk // h, "loss": np.log(ppl)}
            for hk, line in ACTIVE.items()
            for h, ppl in line.items()
        )
    )


def usage_table():
    return check_table(
        pd.DataFrame(
            {
                **PEER,
                "n_experts": n_experts,
                "query_norm": norm,
                "loss": np.log(ppl),
                "usage": usage,
                "unevenness": unevenness,
            }
            for n_experts, *both in USAGE
            for norm, (ppl, usage, unevenness) in zip(("none", "batch"), both, strict=True)
        )
    )


@cache
def surface(status=True):
    table = sweep(models={("dense", None): 0.0}, noise=0.01)
    loss = 1.7 + 400 * table["n_params"] ** -0.34 + 410 * table["n_tokens"] ** -0.28
    table = table.assign(loss=loss.where(table["status"] == "done"))
    done = table[table["status"] == "done"]
    fit = fit_parametric(done["n_params"], done["n_tokens"], done["loss"], n_draws=50)
    return fit, table if status else done[["n_params", "n_tokens", "loss"]]


@cache
def residual_frame():
    done = usual()[0][lambda t: t["status"] == "done"]
    noise = np.random.default_rng(2).normal(0, 0.003, len(done))
    names = ["series", "model", "budget", "n_params", "n_tokens", "n_experts"]
    return done[names].assign(residual=noise)


@cache
def _laws_of(*forms):
    return [fit_expert_law(expert_sweep(), form, baseline="dense", n_draws=30) for form in forms]


def _experts():
    table = expert_sweep()
    slopes = size_slopes(table, baseline="dense")
    return figures.draw_experts(table, _laws_of("power_floor"), slopes, baseline="dense")


def _laws_compared():
    return figures.draw_experts(expert_sweep(), _laws_of("loglinear", "power_floor", "clark"))


ALL = {
    "isoflop": lambda: figures.draw_isoflop(*usual()),
    "isoflop, 12 budgets": lambda: figures.draw_isoflop(*many_budgets()),
    "isoflop together": lambda: figures.draw_isoflop(*usual(), together=True),
    "isoflop together, 12 budgets": lambda: figures.draw_isoflop(*many_budgets(), together=True),
    "laws": lambda: figures.draw_laws(usual()[1]),
    "frontier": lambda: figures.draw_frontier(*usual()),
    "experts": _experts,
    "experts, laws compared": _laws_compared,
    "active": lambda: figures.draw_active(active_table()),
    "usage": lambda: figures.draw_usage(usage_table()),
    "residuals": lambda: figures.draw_residuals(residual_frame()),
    "contours": lambda: figures.draw_contours(*surface()),
}


def shown_texts(figure):
    """The texts that are drawn, with their boxes in pixels; ticks off the axis are not."""
    figure.canvas.draw()
    ticks = {}
    for axis in figure.axes:
        for one in (axis.xaxis, axis.yaxis):
            for label in [*one.get_ticklabels(), *one.get_ticklabels(minor=True)]:
                ticks[label] = axis.bbox.padded(1)
    found = []
    for text in figure.findobj(Text):
        if not text.get_visible() or not text.get_text().strip():
            continue
        box = text.get_window_extent()
        if text in ticks:
            frame = ticks[text]
            x, y = text.get_transform().transform(text.get_position())
            if not (frame.x0 <= x <= frame.x1 or frame.y0 <= y <= frame.y1):
                continue
            inside_x = frame.x0 <= (box.x0 + box.x1) / 2 <= frame.x1
            inside_y = frame.y0 <= (box.y0 + box.y1) / 2 <= frame.y1
            if not (inside_x or inside_y):
                continue
        found.append((text, box))
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_is_legible(name, dark):
    with figures.style(dark):
        figure = ALL[name]()
        texts = shown_texts(figure)
    page = to_rgb(figure.get_facecolor())
    assert page == to_rgb("#16181d" if dark else "#ffffff")
    assert len(texts) > 5
    for text, box in texts:
        assert text.get_fontsize() >= 8, text
        least = 1.9 if text.get_text().startswith("hk=") else 7  # labels in their line's colour
        assert contrast(to_rgb(text.get_color()), page) >= least, text
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.width + 1, text
        assert box.y1 <= figure.bbox.height + 1, text
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 2, (one, other)


@pytest.mark.parametrize("name", ALL)
def test_axes_name_their_quantity_and_unit(name):
    units = ("parameters", "tokens", "FLOPs", "nats", "per token", "%", "number of", "heads h")
    figure = ALL[name]()
    labels = [axis.get_xlabel() for axis in figure.axes]
    labels += [axis.get_ylabel() for axis in figure.axes]
    assert any(axis.get_ylabel() for axis in figure.axes)
    assert any(axis.get_xlabel() for axis in figure.axes)
    for label in filter(None, labels):
        assert any(unit in label for unit in units), label


def stars(axis):
    return [line for line in axis.lines if line.get_marker() == "*"]


def is_hollow(line):
    return to_rgb(line.get_markerfacecolor()) == to_rgb(plt.rcParams["axes.facecolor"])


def legend_labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_isoflop_has_a_panel_a_budget_and_a_star_a_minimum():
    table, fit = usual()
    figure = figures.draw_isoflop(table, fit)
    assert [axis.get_title() for axis in figure.axes] == [f"{power(C)} FLOPs" for C in BUDGETS]
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


def test_doubtful_curves_are_dashed_and_hollow():
    table = sweep(BUDGETS[:1], {("dense", None): 0.0}, noise=0)
    table.loc[table["status"] == "done", "loss"] += [0, 0.15, 0, 0, 0, 0, 0]  # off any parabola
    fit = isoflop(table)
    assert fit.curves[0].status is FitStatus.DOUBTFUL
    figure = figures.draw_isoflop(table, fit)
    (star,) = stars(figure.axes[0])
    assert is_hollow(star)
    curve = max(figure.axes[0].lines, key=lambda line: len(line.get_xdata()))
    assert curve.get_linestyle() == "--"
    assert "doubtful" in legend_labels(figure)


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
    assert {f"{power(C)} FLOPs" for C in BUDGETS[:2]} <= set(legend_labels(figure))
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
    assert f"{law.exponent:.3f} ({low:.3f}, {high:.3f})" in [
        text.get_text() for text in legend.get_texts()
    ]
    assert all(axis.collections for axis in figure.axes)  # the bands
    assert "95 % interval of the law" in legend_labels(figure)


def test_minima_left_out_of_a_law_are_hollow():
    table = sweep(models={("dense", None): 0.0})
    keep = (table["budget"] > BUDGETS[0]) | (table["n_params"] > 2.5e7)  # the minimum is below
    table = table[keep]
    fit = isoflop(table)
    assert [c.inside for c in fit.curves] == [False, True, True, True, True]
    figure = figures.draw_laws(fit)
    points = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [is_hollow(point) for point in points] == [True, False, False, False, False]
    assert "left out of the law" in legend_labels(figure)


def test_laws_that_were_not_fitted_are_refused():
    with pytest.raises(ValueError, match=r"draw_laws: the fit has no laws of compute: .*needs 2"):
        figures.draw_laws(isoflop(sweep(BUDGETS[:1], {("dense", None): 0.0})))


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
    figure = _experts()
    (axis,) = figure.axes
    assert axis.get_xlabel() == "number of experts (log scale)"
    assert [experts(v) for v in axis.get_xticks()] == ["1", "16k", "65k", "262k", "1M"]
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
    figure = _laws_compared()
    (axis,) = figure.axes
    assert not axis.collections
    lines = [line for line in axis.lines if len(line.get_xdata()) == 120]
    assert len(lines) == 6
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 3


def test_experts_of_several_models_are_refused():
    table = sweep(BUDGETS[:1])
    with pytest.raises(ValueError, match="draws one model, got moe, peer; name it: model="):
        figures.draw_experts(table)
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


def test_usage_is_three_panels_by_query_norm():
    figure = figures.draw_usage(usage_table())
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "experts used (%)",
        "unevenness (nats)",
        "perplexity per token (log)",
    ]
    batch, none = figure.axes[0].lines
    assert list(none.get_ydata()) == pytest.approx([100, 100, 100, 99.8])
    assert legend_labels(figure) == ["peer, query norm: batch", "peer, query norm: none"]
    assert is_hollow(none)
    assert not is_hollow(batch)


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
    one = figures.draw_residuals(frame[["n_params", "residual"]])
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


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.draw_active(sweep()), "draw_active needs n_heads and top_k"),
        (lambda: figures.draw_usage(sweep()), "draw_usage needs usage and unevenness"),
        (lambda: figures.draw_residuals(sweep()), "draw_residuals needs residual"),
        (
            lambda: figures.draw_residuals(pd.DataFrame({"residual": [0.1, 0.2]})),
            "none of n_params, .* varies",
        ),
        (
            lambda: figures.draw_contours(surface()[0], pd.DataFrame({"n_params": [1.0]})),
            "draw_contours needs n_tokens and loss",
        ),
    ],
)
def test_what_is_missing_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_active_rcparams_are_kept():
    before = dict(plt.rcParams)
    with plt.rc_context({"axes.facecolor": "#002b36", "text.color": "#fdf6e3"}):
        figure = ALL["isoflop"]()
        assert to_rgb(figure.axes[0].get_facecolor()) == to_rgb("#002b36")
        assert to_rgb(figure.legends[0].get_texts()[0].get_color()) == to_rgb("#fdf6e3")
    with figures.style(dark=True):
        pass
    assert dict(plt.rcParams) == before


def test_every_model_colour_stands_out_on_both_pages():
    for dark in (False, True):
        with figures.style(dark):
            page = to_rgb(plt.rcParams["axes.facecolor"])
            for colour in figures.MODEL_COLOURS.values():
                assert contrast(to_rgb(colour), page) >= 2.3


@pytest.mark.parametrize(
    ("limits", "ticks"),
    [
        ((0.9e6, 1.1e9), [1e6, 1e7, 1e8, 1e9]),
        ((8e7, 4e8), [1e8, 1.5e8, 2e8, 3e8]),
        ((20.4, 23.1), [20.5, 21, 21.5, 22, 22.5, 23]),
        ((3.0, 1e30), [1e5, 1e10, 1e15, 1e20, 1e25, 1e30]),
        ((22.31, 22.36), [22.31, 22.32, 22.33, 22.34, 22.35, 22.36]),
    ],
)
def test_ticks_are_few_and_round(limits, ticks):
    found = LogTicks(6, 0.1).tick_values(*limits)
    assert found == pytest.approx(ticks)


def test_numbers_are_short():
    assert [compact(v) for v in (999.9, 1500, 69232, 1.31e9)] == ["1k", "1.5k", "69.2k", "1.31B"]
    assert [experts(v) for v in (1, 512, 4096, 2**14, 2**22)] == ["1", "512", "4096", "16k", "4.1M"]
    assert power(1e17) == "$10^{17}$"
    assert power(2.56e19) == "$2.56\\times10^{19}$"


def test_a_layer_without_queries_has_no_query_norm_in_its_legend():
    table = usage_table().assign(model="moe", query_norm=pd.NA)
    assert legend_labels(figures.draw_usage(table)) == ["moe"]
