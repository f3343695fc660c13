"""Look of each model: one colour-blind safe colour and marker, the same in every figure.

A colour is chosen for the page that is drawn and, beside it, for a dark one (schemes.py).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba

from analysis.figures.schemes import Colour, dark_shade, pair
from experiments.system.page.colours import MARKERS, model_colour, model_order, natural

K = TypeVar("K")
_VARIANT = re.compile(r"( [A-Za-z_][\w.]*=\S+)+$")  # as table names series
known_models: list[str] = []  # of the active style(models=...)


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a series is drawn."""

    colour: Colour
    marker: str


def looks(series: Iterable[str], table: pd.DataFrame | None = None) -> dict[str, Look]:
    """A look for each series, in order of model: its model's colour, shades of it if several.

    table: says which model a series is of; without it the name does.
    """
    known = {} if table is None else dict(zip(table["series"], table["model"], strict=True))
    models = {name: known.get(name, _VARIANT.sub("", name)) for name in dict.fromkeys(series)}
    given: Iterable[str] = [] if table is None else table["model"]
    order = model_order([*models.values(), *given, *known_models])
    found = {}
    for rank, model in enumerate(order):
        own = sorted((name for name, of in models.items() if of == model), key=natural)
        shades = _shades(legible(model_colour(model, order)), len(own))
        for step, (name, colour) in enumerate(zip(own, shades, strict=True)):
            marker = MARKERS[(rank + step) % len(MARKERS)]
            found[name] = Look(colour=colour, marker=marker)
    return found


def model_looks(models: Iterable[str]) -> dict[str, Look]:
    """A look for each model, whatever its series."""
    names = list(dict.fromkeys(models))
    return looks(names, pd.DataFrame({"series": names, "model": names}))


def _shades(colour: Colour, n: int) -> list[Colour]:
    """From nearer the page to nearer the ink, the colour itself if there is one."""
    if n == 1:
        return [colour]
    steps = np.linspace(-0.45, 0.45, n)
    return [
        legible(blend(colour, page() if s < 0 else ink(), abs(s)), least=1.9)
        for s in steps.tolist()
    ]


def page() -> Colour:
    """Colour behind the data, by the active rcParams."""
    for name in ("axes.facecolor", "figure.facecolor"):
        *colour, alpha = to_rgba(plt.rcParams[name])
        if alpha > 0:
            return (colour[0], colour[1], colour[2])
    return (1.0, 1.0, 1.0) if luminance(ink()) < 0.5 else (0.0, 0.0, 0.0)


def ink() -> Colour:
    """Colour of text, by the active rcParams."""
    red, green, blue, _ = to_rgba(plt.rcParams["text.color"])
    return (red, green, blue)


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """Colour with a share of another."""
    return pair(_mixed(colour, other, share), _mixed(dark_shade(colour), dark_shade(other), share))


def legible(colour: str | Colour, least: float = 2.3) -> Colour:
    """Colour, with as much of the ink as gives this contrast to the page.

    least: WCAG 2.2 asks 3 of graphics; 2.3 keeps the gold of moe, and markers differ as well.
    """
    red, green, blue, _ = to_rgba(colour)
    given = (red, green, blue)
    dark = _legible(dark_shade(given), dark_shade(ink()), dark_shade(page()), least)
    return pair(_legible(given, ink(), page(), least), dark)


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(colour, other, strict=True))
    return (red, green, blue)


def _legible(colour: Colour, text: Colour, background: Colour, least: float) -> Colour:
    for share in np.linspace(0, 1, 21):
        found = _mixed(colour, text, float(share))
        if contrast(found, background) >= least:
            return found
    return text


def contrast(one: Colour, other: Colour) -> float:
    """From 1 to 21, as WCAG 2.2 defines it."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def luminance(colour: Colour) -> float:
    """Relative, from 0 to 1, as WCAG 2.2 defines it."""
    c = np.array(colour)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def sequential(n: int) -> list[Colour]:
    """Colours from the least to the most, for an ordered few such as sizes."""
    both = zip(_ordered(n, page()), _ordered(n, dark_shade(page())), strict=True)
    return [legible(pair(here, dark), least=1.9) for here, dark in both]


def _ordered(n: int, background: Colour) -> list[Colour]:
    """Colours of viridis; its dark end is lost on a dark page, its light end on a light one."""
    import seaborn as sns  # takes half a second, and few figures need it

    low, high = (0.35, 1.0) if luminance(background) < 0.5 else (0.0, 0.72)
    chosen = sns.color_palette("viridis", as_cmap=True)(np.linspace(low, high, n))
    return [(c[0], c[1], c[2]) for c in chosen.tolist()]


def ordered_looks(keys: Sequence[K]) -> dict[K, Look]:
    """A look for each of an ordered few; markers are repeated after ten."""
    colours = sequential(len(keys))
    return {
        key: Look(colour=colour, marker=MARKERS[i % len(MARKERS)])
        for i, (key, colour) in enumerate(zip(keys, colours, strict=True))
    }
