"""Minima of an isoFLOP fit as a short table and a sentence a budget, for the end of a sweep."""

import math
from collections.abc import Sequence

import numpy as np

from analysis.fitting.text import in_brackets
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.flags import MIN_POINTS
from analysis.isoflop.left_out import outliers_in
from experiments.system.text_table import aligned, count


def brief(fit: IsoFLOPFit) -> str:
    """A line a curve: the lowest loss of the fitted curve, where it is, their 95 % intervals, and
    its warnings' names; a curve without a minimum has dashes. Then which model is lowest at each
    budget, if the intervals tell.
    """
    head = ["FLOPs", "model", "lowest loss", "perplexity", f"at {fit.x_name}", "of sizes"]
    curves = sorted(fit.curves, key=lambda c: c.budget)
    lines = aligned([head, *map(_cells, curves)], n_left=2)
    names = ["warnings", *(", ".join(c.flags) or "none" for c in curves)]
    return "\n".join(
        [
            *(f"{line}  {name}" for line, name in zip(lines, names, strict=True)),
            *(f"skipped: {why}" for why in fit.skipped),
            *outliers_in(fit.outliers),
            *_lowest(curves),
        ]
    )


def _cells(c: IsoFLOPCurve) -> list[str]:
    sizes = f"{count(c.x_min)} to {count(c.x_max)}"
    if not c.inside:
        return [f"{c.budget:.3g}", c.model, "-", "-", "-", sizes]
    left, right = c.x_interval
    bounded = np.isfinite(left) and np.isfinite(right) and left > 0
    return [
        f"{c.budget:.3g}",
        c.model,
        f"{c.loss_opt:.3f} {in_brackets(*c.loss_interval, '.3f')}",
        f"{np.exp(c.loss_opt):.1f}",
        count(c.x_opt) + (f" ({count(left)} to {count(right)})" if bounded else ""),
        sizes,
    ]


def _lowest(curves: Sequence[IsoFLOPCurve]) -> list[str]:
    """A sentence a budget of several models."""
    found = []
    for budget in dict.fromkeys(c.budget for c in curves):
        own = sorted((c for c in curves if c.budget == budget and c.inside),
                     key=lambda c: c.loss_opt)  # fmt: skip
        if len(own) < 2:
            continue
        first, *others = own
        gaps = [(other.model, *_difference(other, first)) for other in others]
        near = [gap for gap in gaps if not gap[2] > 0]  # a wide interval may be of any of them
        model, gap, low, high = [*near, *gaps][0]
        by = f"by {gap:.3f} {in_brackets(low, high, '.3f')}"
        said = f"{first.model} is lowest, {by} below {model}"
        if near:
            said = f"the lowest is open: {first.model} is below {model} {by}"
        remedy = f"; {MIN_POINTS} sizes or more give one" if math.isnan(low) else ""
        found.append(f"At {budget:.3g} FLOPs {said}{remedy}.")
    return found


def _difference(a: IsoFLOPCurve, b: IsoFLOPCurve) -> tuple[float, float, float]:
    """Lowest loss of one minus another's, with its 95 % interval from theirs, as of independent
    estimates whose intervals are not symmetric (MOVER: Zou and Donner 2008, Statistics in Medicine
    27, p. 1693).
    """
    gap = a.loss_opt - b.loss_opt
    (a_low, a_high), (b_low, b_high) = a.loss_interval, b.loss_interval
    down = math.hypot(a.loss_opt - a_low, b_high - b.loss_opt)
    up = math.hypot(a_high - a.loss_opt, b.loss_opt - b_low)
    return gap, gap - down, gap + up
