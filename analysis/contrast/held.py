"""A report that is held to what was registered: each primary contrast, and what refutes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import numbers
from analysis.comparison import Comparison, Table, shown
from analysis.contrast.compute import contrast_points
from analysis.contrast.fit import Fit, fit_points
from analysis.contrast.multipliers import Frontier, estimate_multiplier
from analysis.contrast.parts import points_in
from analysis.contrast.points import Points, make_points
from analysis.contrast.preregistration import Primary, Registered
from analysis.contrast.result import Contrasts, Needed
from analysis.contrast.settings import Settings
from analysis.contrast.slopes import estimate_slope
from analysis.contrast.sources import find_sources
from analysis.contrast.stopping import seeds_needed
from analysis.differences.correction import corrected
from analysis.fitting.intervals import Estimate
from analysis.fitting.text import format_status, join_first
from analysis.settings import in_python, settings_named
from analysis.table.checks import finished
from analysis.table.documents import Documents
from analysis.table.load import has_value, rows_with
from analysis.table.warned import warned

NOT_REGISTERED = "not as registered"  # the column of lines that were moved
_SAME = 1e-6


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A primary contrast as the runs have it. value: nats, a multiplier, or the change of ln
    multiplier a factor e of compute; p: alone, p_holm: after Holm's correction in its family, both
    nan if not computed; verdict: "refuted" (the claim is excluded) or "supported", both with p_holm
    below 1 - level, "open", or "not computed", with why. beyond: budgets where the baseline's
    frontier is continued beyond its own.
    """

    primary: Primary
    value: Estimate
    p: float
    p_holm: float
    verdict: str
    why: str
    beyond: tuple[float, ...]

    @property
    def of(self) -> str:
        return f"{self.primary.layer} - {self.primary.baseline}"

    @property
    def text(self) -> str:
        return shown(self.value, signed=self.primary.kind != "multiplier")


@dataclass(frozen=True, kw_only=True, repr=False)
class Held(Comparison):
    """Primary contrasts as they were registered; all others are exploratory.

    every: all differences of the same curves, primary ones too; left_out: series and budgets of the
    runs that the registration does not name, which are in no fit; stopped: what its rule to stop
    says, None without a rule or its curves; moved: options in words that move numbers and were not
    registered, which every line of a table names.
    """

    registered: Registered
    verdicts: tuple[Verdict, ...]
    stopped: Needed | None
    every: Contrasts
    left_out: tuple[str, ...]
    moved: tuple[str, ...] = ()

    @property
    def exploratory(self) -> Contrasts:
        """Without those that are primary, where other differences are left."""
        of_all = [p for p in (one.primary for one in self.verdicts) if p.targets == "all"]
        names = {kind: {p.pair.name for p in of_all if p.kind == kind}
                 for kind in ("difference", "slope")}  # fmt: skip
        slopes = tuple(one for one in self.every.slopes if one.name not in names["slope"])
        every = self.every.differences
        others = tuple(one for one in every if one.name not in names["difference"])
        return replace(self.every, differences=others or every, slopes=slopes)

    @property
    def warnings(self) -> tuple[str, ...]:
        missing = [one.primary.name for one in self.verdicts if one.why]
        found = [f"primary but not computed: {join_first(missing, 6, '; ')}"] if missing else []
        beyond = [one.primary.name for one in self.verdicts if one.beyond]
        if beyond:
            found.append(
                "primary, by a frontier that is continued beyond its budgets: "
                + join_first(beyond, 6)
            )
        if self.left_out:
            found.append(f"not registered, so in no fit: {join_first(self.left_out, 6)}")
        return (*self.of_table, *found, *self.exploratory.warnings)

    def tables(self) -> list[Table]:
        """A row a primary contrast; then those of the exploratory ones."""
        head = [
            f"pre-registered in {self.registered.path}, sha256 {self.registered.sha256}",
            f"about: {' '.join(self.registered.about.split())}",
            *([f"{NOT_REGISTERED}: {'; '.join(self.moved)}"] if self.moved else []),
            "",
            "primary, Holm's correction in each family:",
        ]
        notes = [
            *(f"not computed: {one.primary.name}: {one.why}" for one in self.verdicts if one.why),
            *self._stop_text(),
            "",
            "EXPLORATORY: all that follows",
        ]
        primary = Table(
            rows=self.verdicts,
            columns=_VERDICTS.format("value|own"),
            shown=_VERDICTS.format("value=text"),
            head=head,
            notes=notes,
        )
        exploratory = self.exploratory.tables()
        said = format_status(self.exploratory.status, self.exploratory.warnings)
        last = replace(exploratory[-1], notes=[*exploratory[-1].notes, *said])
        names = ", ".join(text.split()[0] for text in self.moved)
        beside = {NOT_REGISTERED: names} if names else {}
        every = [primary, *exploratory[:-1], last]
        return [replace(table, beside=beside) for table in every]

    def unsaid(self) -> list[str]:
        return [text for text in self.warnings if text not in self.exploratory.warnings]

    def _stop_text(self) -> list[str]:
        rule, found = self.registered.stop, self.stopped
        if rule is None:
            return []
        name = f"{rule.layer} - {rule.baseline} at {numbers.flops(rule.budget)}"
        if found is None:
            return [f"rule to stop: {name} has no curves yet"]
        most = "" if rule.most is None else f", or at {rule.most} seeds of a size"
        moved = f" ({NOT_REGISTERED})" if self.moved else ""
        head = f"rule to stop: half-width {rule.half_width:g} of {name}{most}{moved}"
        if found.seeds == 0:
            return [f"{head}: {found.half_width:.4f}, reached: stop"]
        more = "no number of seeds is enough" if found.seeds is None else (
            f"{found.seeds} more seeds of each size, {found.runs} runs"
        )  # fmt: skip
        return [f"{head}: {found.half_width:.4f}, not reached: {more}"]


_VERDICTS = (
    "primary=primary.name, kind=primary.kind, of, budgets=primary.budgets|list, "
    "targets=primary.targets, {}, p|.2g, p_holm|.2g, family=primary.family, "
    "refuted if=primary.refuted_if, verdict"
)


@warned()
def hold_to(
    registered: Registered,
    table: pd.DataFrame,
    *,
    documents: Documents | None = None,
    moved: Sequence[str] = (),
    **options: Any,
) -> Held:
    """Registered contrasts of a checked table, and the others of the same curves beside them.

    documents and options are compute_contrasts'. The registration's own count, and where it is
    silent their defaults (Registered.arguments). moved: further options that were not registered.
    Raises ValueError where an option is otherwise, or the registration's `where` is of no run,
    FitError where there are no curves.
    """
    how, unsaid = registered.arguments(options)
    rates = None if (path := how.pop("rates")) is None else Path(path)
    table, left_out = _of_design(registered, table)
    points = make_points(table, how.pop("x", None))
    if how["classes"]:  # layers without a curve yet are in no class yet
        kept = {n: [m for m in own if m in points.layers] for n, own in how["classes"].items()}
        how["classes"] = {name: own for name, own in kept.items() if own}
    if not (how.get("baselines") or how.get("layers")):
        named = dict.fromkeys(one.baseline for one in registered.primaries)
        how["baselines"] = [name for name in named if name in points.layers] or points.layers[:1]
    settings = Settings(**how, primary=())
    sources = find_sources(points, documents, rates)
    fit = fit_points(points, settings, sources.beside)
    of = {"all": fit, **_fits_of_targets(registered, points, settings, documents, rates)}
    tested = [_tested(of[one.targets], one, settings.level) for one in registered.primaries]
    families: dict[str, dict[str, float]] = {}
    for one in tested:
        families.setdefault(one.primary.family, {})[one.primary.name] = one.p
    p_holm = {name: p for own in families.values() for name, p in corrected(own).items()}
    rule = registered.stop
    found = None
    if rule is not None and set(rule.pair.cells) <= set(fit.cells):
        found = seeds_needed(fit, rule.pair, rule.half_width, settings.level)
    return Held(
        registered=registered,
        verdicts=tuple(_judged(one, p_holm[one.primary.name], settings.level) for one in tested),
        stopped=found,
        every=contrast_points(points, settings, sources),
        left_out=left_out,
        moved=(*moved, *unsaid),
    )


def _fits_of_targets(
    registered: Registered,
    points: Points,
    settings: Settings,
    documents: Documents | None,
    rates: Path | None,
) -> Mapping[str, Fit | str]:
    """Curves of those targets that a primary contrast names, or why there are none."""
    found: dict[str, Fit | str] = {}
    for name in {one.targets for one in registered.primaries} - {"all"}:
        try:
            runs = [run for of in points.run_ids for run in of]
            own = _of_targets(documents or Documents(), runs, name)
            of_part = points_in(points, own)
            found[name] = fit_points(of_part, settings, find_sources(of_part, own, rates).beside)
        except ValueError as error:  # FitError is one
            found[name] = f"{name} targets: {error}"
    return found


def _of_targets(documents: Documents, runs: Sequence[str], name: str) -> Documents:
    found = documents.targets(runs)
    if name not in found:
        raise ValueError("records of older versions do not say which of their targets are seen")
    return found[name]


def _of_design(registered: Registered, table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Runs that it names, and in words the layers and budgets that it does not."""
    if registered.where:
        try:
            with settings_named(in_python):
                table = rows_with(table, _that_there_are(registered, table))
        except ValueError as error:
            raise ValueError(f"{registered.path}: {error}") from None
    done = finished(table)
    layers = [str(name) for name in dict.fromkeys(done["series"])]
    if not set(layers) & set(registered.layers):
        raise ValueError(
            f"{registered.path}: no run is of its layers {', '.join(registered.layers)}; the table "
            f"has {join_first(layers, 8)}"
        )
    near = {
        budget: any(abs(budget / one - 1) < _SAME for one in registered.budgets)
        for budget in dict.fromkeys(done["budget"].astype(float))
    }
    left = [name for name in layers if name not in registered.layers]
    left += [f"C={numbers.flops(budget)}" for budget, known in near.items() if not known]
    kept = table["series"].isin(registered.layers) & table["budget"].astype(float).map(
        lambda budget: near.get(budget, False)
    )
    return table[kept].reset_index(drop=True), tuple(left)


def _that_there_are(registered: Registered, table: pd.DataFrame) -> Mapping[str, Sequence[str]]:
    """`where` without values that no run has yet: it was written before the runs."""
    found = {}
    for name, values in registered.where.items():
        have = [value for value in values if name in table and has_value(table[name], value).any()]
        found[name] = have or values
    return found


@dataclass(frozen=True, kw_only=True)
class _Tested:
    primary: Primary
    value: Estimate
    p: float
    why: str = field(default="")
    beyond: tuple[float, ...] = ()


def _tested(fit: Fit | str, primary: Primary, level: float) -> _Tested:
    nan = Estimate(*[float("nan")] * 3)
    if isinstance(fit, str):
        return _Tested(primary=primary, value=nan, p=float("nan"), why=fit)
    missing = [cell for cell in primary.pair.cells if cell not in fit.cells]
    if missing:
        layer = missing[0][0]
        at = ", ".join(numbers.flops(budget) for name, budget in missing if name == layer)
        return _Tested(
            primary=primary, value=nan, p=float("nan"), why=f"{layer} has no curve at {at}"
        )
    if primary.kind in ("difference", "equivalence"):
        one = fit.about.quantity(fit.difference(primary.pair))
        p = fit.about.chance(one) if primary.margin is None else (
            fit.about.chance_beyond(one, primary.margin)
        )  # fmt: skip
        # the interval of two one-sided tests at 1 - level is of twice that
        wide = level if primary.margin is None else 2 * level - 1
        return _Tested(primary=primary, value=fit.about.interval(one, wide), p=p)
    frontier = Frontier(fit.points, fit.design, primary.baseline)
    why = frontier.why_not(fit.about)
    if why:
        return _Tested(primary=primary, value=nan, p=float("nan"), why=f"{primary.baseline}: {why}")
    if primary.kind == "slope":
        slope = estimate_slope(fit, primary.pair, level)
        return _Tested(primary=primary, value=slope.value, p=slope.p, beyond=slope.beyond)
    (budget,) = primary.budgets
    log = frontier.multiplier(fit.lowest(primary.layer, budget), budget)
    quantity, value = fit.about.quantity(log), estimate_multiplier(fit.about, frontier, log, level)
    bounded = value.upper < float("inf")
    beyond = frontier.is_beyond(fit.about, quantity, budget)
    return _Tested(
        primary=primary,
        value=value,
        p=fit.about.chance(quantity) if bounded else 1.0,
        beyond=(budget,) if beyond else (),
    )


def _judged(one: _Tested, p_holm: float, level: float) -> Verdict:
    verdict = "open"
    if one.why:
        verdict = "not computed"
    elif _refuted(one, significant=p_holm < 1 - level):
        verdict = "refuted"
    elif p_holm < 1 - level and not _holds_none(one):
        verdict = "supported"
    return Verdict(
        primary=one.primary,
        value=one.value,
        p=one.p,
        p_holm=p_holm,
        verdict=verdict,
        why=one.why,
        beyond=one.beyond,
    )


def _holds_none(one: _Tested) -> bool:
    """Whether the interval holds no effect, where the registration asks that it does not."""
    _, low, high = one.value
    none = {"holds 0": 0.0, "holds 1": 1.0}.get(one.primary.refuted_if)
    return none is not None and low <= none <= high


def _refuted(one: _Tested, significant: bool) -> bool:
    """Whether the claim is excluded. An interval that holds it excludes nothing, so "holds 0" and
    "holds 1" refute nothing. An equivalence is refuted by its interval alone: its p is that of
    being equal.
    """
    _, low, high = one.value
    margin = one.primary.margin or 0.0
    rules: Mapping[str, bool] = {
        "above 0": significant and low > 0,
        "below 0": significant and high < 0,
        "above 1": significant and low > 1,
        "below 1": significant and high < 1,
        "beyond margin": low > margin or high < -margin,
    }
    return rules.get(one.primary.refuted_if, False)
