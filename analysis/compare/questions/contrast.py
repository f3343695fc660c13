"""Differences of lowest losses by one curve a layer and budget, fitted together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.command import Options, Output, load_runs
from analysis.compare.answer import answered, check_choice
from analysis.contrast.compute import compute_contrasts
from analysis.contrast.curves import CENTRES, CURVATURES
from analysis.contrast.held import Held, hold_to
from analysis.contrast.noise import SOURCES
from analysis.contrast.pairs import FORM
from analysis.contrast.parts import ContrastsByPart, contrast_parts
from analysis.contrast.points import XS
from analysis.contrast.preregistration import read_registration
from analysis.contrast.result import Contrasts
from analysis.figures.contrast import draw_contrasts, draw_parts
from analysis.figures.contrast_multipliers import draw_contrast_multipliers
from analysis.isoflop.offsets import at_budgets
from analysis.options import one_of
from analysis.questions import Question, is_typed
from analysis.rates.saved import read_rates
from analysis.table.documents import BY, Documents

# Options that are arguments of compute_contrasts, and their names there if they have others
_FITTED = (
    "x", "layer", "baseline", "primary", "centres", "curvature", "classes", "errors", "margin",
    "stop", "level", "rates",
)  # fmt: skip
_ARGUMENTS = {"layer": "layers", "baseline": "baselines"}
# Beside a registration: options that move no number, and those that say how the table is read
_FREE = (
    "path", "json", "out", "mark", "preregistered", "question", "command", "chosen", "typed",
    "source", "found",
)  # fmt: skip
_READING = ("column", "unit", "series", "separator", "budgets", "budget_tolerance", "flops")
_FILES = {None: "contrast", "domain": "domains", "targets": "targets"}  # by --by


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """A table, and the losses by document of its records."""

    table: pd.DataFrame
    documents: Documents


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


def parse_marks(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Each NAME: LOW HIGH as name -> multipliers. Raises ValueError for another text."""
    found = {}
    for text in texts:
        name, _, ends = text.rpartition(":")
        try:
            low, high = map(float, ends.split())
        except ValueError:
            low = high = math.nan
        if not (name.strip() and 0 < low <= high < math.inf):
            raise ValueError(
                f"--mark {text!r} must be 'NAME: LOW HIGH', multipliers above 0, the lower first"
            )
        found[name.strip()] = (low, high)
    return found


def _check(options: Options) -> None:
    check_choice(options, "by", BY)
    check_choice(options, "x", XS)
    parse_classes(options.classes)
    parse_marks(options.mark)
    if options.rates is not None:
        read_rates(options.rates)
    if options.preregistered is not None:
        _check_registered(options)


def _check_registered(options: Options) -> None:
    """Raises ValueError for the first option that would move a number and is not registered. One
    that is new to this file is refused, so that none moves a registered number unseen.
    """
    others = {name: value for name, value in vars(options).items()
              if name not in (*_FITTED, *_FREE, *_READING) and is_typed(options, name)}  # fmt: skip
    read_registration(options.preregistered).arguments({**_how(options), **others})


def _read(options: Options) -> Read:
    source = options.source
    rated = options.rates is not None or options.preregistered is not None
    keep = ("batch_tokens",) if rated and source.records else ()
    table = load_runs(options, source, keep=keep, needs=("budget",))
    return Read(table=table, documents=source.documents)


def _compute(options: Options, read: Read) -> Output:
    at = at_budgets(read.table)
    how = {"documents": read.documents, **_how(options)}
    found: Contrasts | ContrastsByPart | Held
    form = ""
    if options.preregistered is not None:
        how |= {"moved": _unregistered(options)}
        found = hold_to(read_registration(options.preregistered), at.table, **how)
        form = "registered"
        drawings = _drawings(found.every, options)
    elif options.by is not None:
        found, form = contrast_parts(at.table, by=options.by, **how), "by"
        drawings = {_FILES[options.by]: partial(draw_parts, found)}
    else:
        found = compute_contrasts(at.table, **how)
        drawings = _drawings(found, options)
    name = _FILES[options.by]
    return answered(options, found, said=at.how, name=name, form=form, figures=drawings)


def _how(options: Options) -> dict[str, Any]:
    """Arguments of compute_contrasts that were given."""
    given = {name: getattr(options, name) for name in _FITTED if is_typed(options, name)}
    if "classes" in given:
        given["classes"] = parse_classes(options.classes)
    return {_ARGUMENTS.get(name, name): value for name, value in given.items()}


def _unregistered(options: Options) -> tuple[str, ...]:
    """Options that say how the table is read, which no registration has, as they were typed."""
    return tuple(
        f"{name.replace('_', '-')} {' '.join(value) if isinstance(value, list) else value}"
        for name in _READING
        if is_typed(options, name)
        for value in [getattr(options, name)]
    )


def _drawings(found: Contrasts, options: Options) -> dict[str, Callable[[], Figure]]:
    """Of differences, and of multipliers where a layer has one at two budgets."""
    drawings: dict[str, Callable[[], Figure]] = {"contrast": partial(draw_contrasts, found)}
    if found.slopes:
        marks = parse_marks(options.mark)
        drawings["contrast_multipliers"] = partial(draw_contrast_multipliers, found, marks)
    return drawings


QUESTION = Question(
    help="lowest losses of layers, by curves of all layers and budgets that are fitted together",
    order=6,
    options=f"""
--layer LAYER...  only this one's differences (default: of all); repeatable
--primary {FORM}...  a difference that Holm's correction is for, e.g. peer-none@3e13, or the mean
    over budgets (default: all that are printed); repeatable
--centres {one_of(CENTRES)}  best sizes: of each curve its own, or a sum of a layer's and a budget's
    part, in ln(size) (default: free)
--curvature {one_of(CURVATURES)}  one for all curves, or one a layer (default: one)
--classes CLASSES  layers of equal noise, e.g. 'sparse: peer pkm; rest: dense none'
    (default: all, or each its own where their noises differ at 10 %%)
--errors {one_of(SOURCES)}  noise by seeds, or by the scatter about the curves; auto: by seeds where
    the scatter is not significantly larger (default: auto)
--margin NATS  lowest losses that differ by less count as equal: two one-sided tests
--stop NATS  the half-width at which to stop: how many more seeds each difference needs for it
--rates JSON[:LAW]  the rates.json of the law that rates are by (analysis rates): intervals hold
    besides that these are not the best, by all its laws that AICc does not exclude, or by this one
    alone, e.g. rates.json:n_tokens
--mark STRIPE...  'NAME: LOW HIGH' in contrast_multipliers.png, e.g. of another study; repeatable
--preregistered REGISTRATION  a yaml of what was registered before the runs: its contrasts are
    primary, all others exploratory (docs/comparisons.md)
""",
    takes={
        "baseline": "the layer (default: dense; with --layer all others); repeatable",
        "by": "domain of the held-out text, or its targets: repeated ones, which a model that "
        "copies can know, and new ones; from the losses of documents in records",
        "x": f"one of {', '.join(XS)} (default: d_model where it is known for all); lr: over "
        "the learning rates of one size",
    },
    check=_check,
    read=_read,
    compute=_compute,
)
