"""Figures show what the results say, with units, and stay legible on a light and a dark page."""

import functools
import io
import itertools
import re
from dataclasses import dataclass, replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from matplotlib.ticker import LogLocator

from analysis import figures
from analysis.figures import schemes
from analysis.figures.palette import contrast
from analysis.figures.scales import LogTicks, MinorTicks

mpl.use("Agg")
from tests.analysis.figures.drawn import (
    ALL,
    BUDGETS,
    contrasts,
    isoflop,
    surface,
    sweep,
)
from tests.extending import follow

NAMES = [pytest.param(n, marks=pytest.mark.long if "12 budgets" in n else ()) for n in ALL]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def shown_texts(figure):
    """Texts that are drawn, with their boxes in pixels; ticks off the axis are not."""
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


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What the tests ask of a figure: it is laid out once, which is most of their time."""

    page: tuple[float, float, float]
    width: float
    height: float
    texts: list  # with their boxes, see shown_texts
    labels: list[str]  # of the axes, x and y
    colours: list[str]  # of its SVG, in order
    pairs: dict[str, str]  # light colours and their dark ones


@functools.cache
def drawing(name, dark, /):  # by place, for the cache takes dark=True for another call
    with figures.style(dark) as pairs:
        figure = ALL[name]()
        texts = shown_texts(figure)
        figure.set_layout_engine("none")  # it is laid out
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        pairs = dict(pairs)  # of this drawing: they end with the style
    return Drawing(
        page=to_rgb(figure.get_facecolor()),
        width=figure.bbox.width,
        height=figure.bbox.height,
        texts=texts,
        labels=[f(axis) for f in (Axes.get_xlabel, Axes.get_ylabel) for axis in figure.axes],
        colours=colours_of(re.sub(r"#[pm][0-9a-f]+", "", svg.getvalue())),
        pairs=pairs,
    )


def colours_of(svg):
    return re.findall(r"#[0-9a-f]{6}", re.sub(r"<image.*?/>", "", svg, flags=re.DOTALL))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_is_legible(name, dark):
    drawn = drawing(name, dark)
    page, texts = drawn.page, drawn.texts
    assert page == to_rgb("#16181d" if dark else "#ffffff")
    assert len(texts) > 5
    for text, box in texts:
        assert text.get_fontsize() >= 8, text
        least = 1.9 if text.get_text().startswith("hk=") else 7  # labels in their line's colour
        assert contrast(to_rgb(text.get_color()), page) >= least, text
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= drawn.width + 1, text
        assert box.y1 <= drawn.height + 1, text
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width <= 1 or height <= 2, (one, other)


@pytest.mark.parametrize("name", NAMES)
def test_axes_name_their_quantity_and_unit(name):
    units = ("parameters", "tokens", "FLOPs", "nats", "per token", "%", "number of", "heads h")
    units += ("compute multiplier", "model", "domain")  # a ratio, and names
    labels = drawing(name, False).labels
    half = len(labels) // 2
    assert any(labels[:half])
    assert any(labels[half:])
    for label in filter(None, labels):
        assert any(unit in label for unit in units), label


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
        (
            lambda: figures.draw_laws(isoflop(sweep(BUDGETS[:1], {("dense", None): 0.0}))),
            r"draw_laws: the fit has no laws of compute: .*needs 2",
        ),
        (
            lambda: figures.draw_experts(sweep(BUDGETS[:1])),
            "draws one model, got moe, peer; name it: model=",
        ),
        (
            lambda: figures.draw_contrast_multipliers(replace(contrasts(), differences=())),
            "no layer has a multiplier",
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


def test_the_same_figure_is_the_same_svg():
    def drawn():
        with figures.style():
            buffer = io.BytesIO()
            ALL["isoflop"]().savefig(buffer, format="svg", metadata={"Date": None})
            return buffer.getvalue()

    # of six, because the layout's solver gives one of two answers, the rarer one time in four
    assert len({drawn() for _ in range(6)}) == 1


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


@pytest.mark.parametrize("limits", [(0.9e6, 1.1e9), (2e7, 4e8), (20.4, 2310.0), (3.0, 1e30)])
def test_minor_ticks_are_those_of_matplotlib_that_are_seen(limits):
    theirs = LogLocator(subs=range(2, 10), numticks=100).tick_values(*limits)
    seen = [v for v in theirs if limits[0] <= v <= limits[1]]
    assert list(MinorTicks().tick_values(*limits)) == seen
    assert len(seen) < len(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_light_drawing_with_its_colours_swapped_is_the_dark_one(name):
    light, dark = drawing(name, False), drawing(name, True)
    assert len(light.colours) > 20
    assert light.colours != dark.colours
    swapped = [to_rgb(light.pairs.get(colour, colour)) for colour in light.colours]
    assert len(swapped) == len(dark.colours)
    for one, other in zip(swapped, dark.colours, strict=True):  # a blend of blends is rounded twice
        assert one == pytest.approx(to_rgb(other), abs=1.01 / 255)


def test_a_colour_that_already_replaces_another_moves_by_one_step():
    with figures.style() as pairs:
        white = (1.0, 1.0, 1.0)
        assert pairs[to_hex(white)] == "#16181d"  # the page's
        moved = schemes.pair(white, white)
        assert pairs[to_hex(moved)] == "#ffffff"
        assert moved == pytest.approx(white, abs=6 / 255)
        assert schemes.pair(white, white) == moved
        assert schemes.dark_shade(moved) == white
    assert schemes.dark_shade(moved) == pytest.approx(moved)


# By night: a report in a copy of the checkout, as how-tos of parts are
@pytest.mark.night
def test_a_figure(tmp_path):
    printed = follow("A figure", tmp_path)
    assert "drawing: spread" in printed
    assert "runs-analysis/figures/spread.png" in printed
    assert "Spread of losses" in printed
