"""Differences of lowest losses by one curve a layer and budget, fitted together."""

import argparse

import pandas as pd

from analysis.command import Command, Options, Output, table_of
from analysis.contrast.compute import FORM, contrast
from analysis.contrast.curves import CENTRES, CURVATURES
from analysis.contrast.noise import SOURCES
from analysis.contrast.points import SIZES
from analysis.isoflop.offsets import at_budgets


def _options(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Compare the lowest losses of layers: one curve a layer and budget in ln(size), all with "
        "one curvature, seeds as replicates, noise by class of layers and budget. Choose the sizes "
        "by --where, e.g. n_layers=3,4,5: far from the best a curve is no parabola."
    )
    sub.add_argument(
        "--x", choices=SIZES, help="the size (default: d_model where it is known for all)"
    )
    sub.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="LAYER",
        help="the layer that others are compared with (default: dense, with --layer all others); "
        "repeatable",
    )
    sub.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="LAYER",
        help="only this one's differences (default: of all); repeatable",
    )
    sub.add_argument(
        "--primary",
        action="append",
        default=[],
        metavar=FORM,
        help="a difference that Holm's correction is for, e.g. peer-none@3e13, or the mean over "
        "budgets (default: all that are printed); repeatable",
    )
    sub.add_argument(
        "--centres",
        default=CENTRES[0],
        choices=CENTRES,
        help="best sizes: of each curve its own, or a sum of a layer's and a budget's part, in "
        "ln(size) (%(default)s)",
    )
    sub.add_argument(
        "--curvature",
        default=CURVATURES[0],
        choices=CURVATURES,
        help="one for all curves, or one a layer (%(default)s)",
    )
    sub.add_argument(
        "--classes",
        metavar="NAME: LAYER ...; ...",
        help="layers of equal noise, e.g. 'sparse: peer pkm; rest: dense none' (default: all, or "
        "each its own where their noises differ at 10 %%)",
    )
    sub.add_argument(
        "--errors",
        default=SOURCES[0],
        choices=SOURCES,
        help="noise by seeds, or by the scatter about the curves; auto: by seeds where the scatter "
        "is not significantly larger (%(default)s)",
    )
    sub.add_argument(
        "--margin",
        type=float,
        metavar="NATS",
        help="lowest losses that differ by less count as equal: two one-sided tests",
    )
    sub.add_argument(
        "--stop",
        type=float,
        metavar="NATS",
        help="the half-width at which to stop: how many more seeds each difference needs for it",
    )
    sub.add_argument("--level", type=float, default=0.95, help="of intervals (%(default)s)")


def parse_classes(text: str | None) -> dict[str, list[str]] | None:
    """NAME: LAYER ...; NAME: LAYER ... as name -> layers. Raises ValueError for another text."""
    if text is None:
        return None
    found: dict[str, list[str]] = {}
    for part in text.split(";"):
        name, colon, layers = part.partition(":")
        members = layers.replace(",", " ").split()
        if not (colon and name.strip() and members) or name.strip() in found:
            raise ValueError(
                f"--classes {text!r} must be 'NAME: LAYER ...; NAME: LAYER ...', each name once"
            )
        found[name.strip()] = members
    return found


def _compute(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    found = contrast(
        at.table,
        options.x,
        layers=options.layer,
        baselines=options.baseline,
        primary=options.primary,
        centres=options.centres,
        curvature=options.curvature,
        classes=parse_classes(options.classes),
        errors=options.errors,
        margin=options.margin,
        stop=options.stop,
        level=options.level,
    )
    return Output(values=found.to_dict(), text="\n".join([*at.how, found.summary()]))


COMMAND = Command(
    help="compare lowest losses of layers by curves that are fitted together",
    options=_options,
    check=lambda options: (parse_classes(options.classes), None)[1],
    read=lambda options: table_of(options, needs=("budget",)),
    compute=_compute,
)
