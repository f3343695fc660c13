"""Warnings of a study by their cause: what says the same of many fits is one line."""

import re
from collections.abc import Iterable, Iterator

from analysis import numbers
from analysis.report.gallery import file_label
from analysis.report.page.blocks import Cause, Warning, Warnings
from analysis.study import Study

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_LIST = re.compile(r"(C=\S+( \([^)]*\))?(; )?)+$")  # of budgets, at the end of a sentence
_APPROACH = re.compile(r"([^:]+, approach [^:]+): ")  # of which fit of several
_NAMES = re.compile(r"^((\w+\*, )*\w+\*): ")  # of quantities, at its beginning


def list_warnings(study: Study) -> Iterator[Warning]:
    """Warnings of each fit and of the runs themselves, beside the figure that shows it."""
    if study.isoflop is not None:
        for curve in study.isoflop.curves:
            at = f"{curve.model} at C={numbers.flops(curve.budget)}"
            yield from _make_warnings(at, curve.warnings, "isoflop")
        for law in study.isoflop.laws:
            yield from _make_warnings(f"{law.model}, laws of compute", law.warnings, "laws")
        for model, why in study.isoflop.unfitted.items():
            yield from _make_warnings(
                f"{model}, laws of compute", [f"no power laws: {why}"], "isoflop"
            )
        yield from _make_warnings("isoFLOP curves", study.isoflop.skipped, "isoflop")
        yield from _make_warnings("isoFLOP curves", study.isoflop.moved, "IsoFLOP curves")
    for model, fit in study.parametric.items():
        yield from _make_warnings(
            f"{model}, surface", fit.warnings, f"contours_{file_label(model)}"
        )
    for model, influence in study.influences.items():
        yield from _make_warnings(f"{model}, surface", influence.warnings, "Parametric surface")
    if study.agreement is not None:
        yield from _make_warnings("agreement", study.agreement.warnings, "Do the approaches agree?")
    if study.hold_out is not None:
        yield from _make_warnings("held-out budgets", study.hold_out.warnings, "Held-out budgets")
    for model, laws in study.experts.items():
        yield from _make_warnings(
            f"{model}, experts", laws.warnings, f"experts_{file_label(model)}"
        )
    for budget, found in study.differences.items():
        at = f"differences at C={numbers.flops(budget)}"
        yield from _make_warnings(at, found.warnings, "Differences and seeds")
    if study.budget_multipliers is not None:
        yield from _make_warnings(
            "compute multipliers", study.budget_multipliers.warnings, "Answer"
        )
    if study.multipliers is not None:
        yield from _make_warnings(
            "compute multipliers by a law", study.multipliers.warnings, "multipliers"
        )
    yield from _make_warnings("runs", study.cautions, "Runs")
    notes = study.table.attrs.get("notes", ())
    yield from _make_warnings("table", dict.fromkeys((*study.of_table, *notes)), "Runs")


def _make_warnings(what: str, texts: Iterable[str], shown_in: str) -> Iterator[Warning]:
    for text in texts:
        fit = _APPROACH.match(text)
        of = f"{what}, {fit[1]}" if fit else what
        yield Warning(of=of, text=text[fit.end() :] if fit else text, shown_in=shown_in)


def by_cause(warnings: Iterable[Warning]) -> Warnings:
    """One cause for all that differ in numbers only, the most frequent first.

    Its text has the span of each number that differs: "the points are 0.020 to 0.044 nats off".
    """
    groups: dict[str, list[Warning]] = {}
    for warning in warnings:
        groups.setdefault(_NUMBER.sub("#", _core(warning.text)), []).append(warning)
    causes = [
        Cause(text=_span([_core(w.text) for w in group]), warnings=group)
        for group in groups.values()
    ]
    return Warnings(causes=sorted(causes, key=lambda cause: -len(cause.warnings)))


def _core(text: str) -> str:
    """Without the quantities that it names first and the budgets that it lists last."""
    return _LIST.sub("", _NAMES.sub("", text)).rstrip(" :")


def _span(texts: list[str]) -> str:
    """Text that they share, with the least and most of each number."""
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    spans = iter([_least_to_most(column) for column in columns])
    return _NUMBER.sub(lambda _: next(spans), texts[0])


def _least_to_most(numbers: tuple[str, ...]) -> str:
    least, most = min(numbers, key=float), max(numbers, key=float)
    return least if float(least) == float(most) else f"{least} to {most}"
