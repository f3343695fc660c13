"""Results of a contrast: lowest losses, their differences, and the noise that both have."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from analysis import numbers
from analysis.comparison import Comparison, Table
from analysis.contrast.curves import Centres, Curvature
from analysis.contrast.noise import GroupNoise
from analysis.contrast.slopes import Slope
from analysis.fitting.intervals import Estimate
from analysis.fitting.text import join_first, pluralize

_UNEQUAL = 0.05  # chance of curvatures so unequal: less is a warning


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """Lowest loss of a layer at a budget in FLOPs, nats/token, and the size where it is.

    inside: that is within the sizes that were run.
    """

    layer: str
    budget: float
    n_sizes: int
    n_runs: int
    size: Estimate
    loss: Estimate
    inside: bool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Lowest loss of `layer` less that of `baseline`, nats/token: the mean over `budgets` (FLOPs).

    se: standard error, by first order; dof: of the noise in it; shares: source of error -> its
    share of se^2; shifts: source -> what is to be added to the value if its error were none; p:
    two-sided, of no difference; p_holm: after Holm's correction for all primary ones, nan for
    others; p_equal: of losses that differ by the margin or more, by two one-sided tests, nan
    without a margin. multiplier: of the baseline's compute, for the layer's loss, nan of means over
    budgets, and where the baseline has no joined frontier; beyond: that is continued beyond its
    budgets.
    """

    name: str
    layer: str
    baseline: str
    budgets: tuple[float, ...]
    value: Estimate
    se: float
    dof: float
    shares: Mapping[str, float]
    shifts: Mapping[str, float]
    p: float
    primary: bool
    p_holm: float
    p_equal: float
    multiplier: Estimate
    beyond: bool

    @property
    def half_width(self) -> float:
        return (self.value.upper - self.value.lower) / 2

    @property
    def sources(self) -> dict[str, float]:
        """Shares of the variance by source, where there is more than noise."""
        shares = self.shares if len(self.shares) > 1 else {}
        return {f"share_{name}": share for name, share in shares.items()}

    @property
    def moves(self) -> dict[str, float]:
        return {f"{name}_shift": by for name, by in self.shifts.items()}


@dataclass(frozen=True, kw_only=True)
class Needed:
    """Seeds that a difference needs for a half-width. half_width: now, nats; seeds: more of
    each size of its curves, None: however many there are; runs, flops: those that are missing.
    """

    name: str
    half_width: float
    seeds: int | None
    runs: int
    flops: float

    @property
    def more(self) -> int | str:
        return "no number" if self.seeds is None else self.seeds

    @property
    def cost(self) -> str:
        return numbers.flops(self.flops) if self.runs else "0"


@dataclass(frozen=True, kw_only=True, repr=False)
class Contrasts(Comparison):
    """Lowest losses by curves of all layers and budgets together, and their differences.

    classes: layer -> class of equal noise, named: by whom they were asked for; p_classes: the
    chance of noises so unequal within classes; curvatures: layer -> k of k (ln size - ln size*)^2,
    one for all or one each; p_curvature: the chance of curvatures so unequal where all have one,
    nan if not tested; holds, lacks: the errors that are in the intervals, and those that are not;
    slopes: of each two layers that are compared at several budgets, none where the multipliers
    don't exist; margin: nats, of equivalence; stop: the half-width wanted, needed: the seeds for
    it, of the primary differences; left_out: what has no curve.
    """

    x_name: str
    centres: Centres
    curvature: Curvature
    level: float
    classes: Mapping[str, str]
    named: bool
    p_classes: float
    noises: tuple[GroupNoise, ...]
    curvatures: Mapping[str, Estimate]
    p_curvature: float
    n_points: int
    n_runs: int
    holds: tuple[str, ...]
    lacks: tuple[str, ...]
    minima: tuple[Minimum, ...]
    differences: tuple[Difference, ...]
    slopes: tuple[Slope, ...]
    margin: float | None
    stop: float | None
    needed: tuple[Needed, ...]
    left_out: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.of_table, *self._of_noise(), *self._of_curves())

    def _of_noise(self) -> list[str]:
        found = []
        if self.named and self.p_classes < _UNEQUAL:
            found.append(
                f"noises differ within the classes (p={self.p_classes:.1g}): intervals of the "
                "noisier layers are too narrow"
            )
        lacking = [
            f"{n.of} at {numbers.flops(n.budget)} ({n.lack:.2g} times, p={n.chance:.1g})"
            for n in self.noises
            if n.source == "scatter" and n.seeds_dof and n.lack > 1
        ]
        if lacking:
            found.append(
                "the curves miss more than seeds explain, so the noise is the scatter about them: "
                + join_first(lacking, 6, "; ")
            )
        return found

    def _of_curves(self) -> list[str]:
        found = []
        if self.p_curvature < _UNEQUAL:
            found.append(
                f"curvatures differ by layer (p={self.p_curvature:.1g}): one for all moves lowest "
                "losses; compare --curvature layer"
            )
        edge = [f"{m.layer} at {numbers.flops(m.budget)}" for m in self.minima if not m.inside]
        if edge:
            found.append(f"best size outside of those run: {join_first(edge, 6)}")
        wide = [f"{m.layer} at {numbers.flops(m.budget)}" for m in self.minima
                if not m.loss.upper - m.loss.lower < float("inf")]  # fmt: skip
        if wide:
            found.append(f"no bound, for the curvature is not identifiable: {join_first(wide, 6)}")
        beyond = [d.name for d in self.differences if d.beyond]
        if beyond:
            found.append(
                "multipliers by a frontier that is continued beyond its budgets: "
                + join_first(beyond, 6)
            )
        if self.left_out:
            found.append(f"left out: {join_first(self.left_out, 6, '; ')}")
        return found

    @property
    def of_differences(self) -> Table:
        """A row a difference; lines below that say what columns are."""
        said = (
            f"p_equal: of a difference of {self.margin:g} or more; " if self.margin else ""
        ) + "multiplier: of the compute of the layer subtracted, by its own joined frontier"
        if any("rates" in one.shifts for one in self.differences):
            said += "; rates_shift: what the best rates would add"
        return Table(
            rows=self.differences,
            columns=_DIFFERENCES,
            shown=_DIFFERENCES.replace("multiplier|own", "multiplier|interval"),
            skip_empty=True,
            notes=[said],
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a difference."""
        return self.of_differences.frame()

    def tables(self) -> list[Table]:
        """Noises, lowest losses, differences, slopes, and the seeds that are missing."""
        one = next(iter(self.curvatures.values()))
        bends = (
            f"one curvature {numbers.with_interval(*one)}"
            if self.curvature == "one"
            else "a curvature a layer: "
            + ", ".join(f"{m} {numbers.with_interval(*k)}" for m, k in self.curvatures.items())
        )
        tested = "" if self.p_curvature != self.p_curvature else (
            f" (equal by layer: p = {self.p_curvature:.2g})"
        )  # fmt: skip
        what = "rate" if self.x_name == "lr" else "size"
        counts = f"{pluralize(self.n_points, what)}, {pluralize(self.n_runs, 'run')}"
        head = [
            f"curves of ln({self.x_name}), best {what}s {_CENTRES[self.centres]}, {bends}{tested}: "
            f"{counts}; losses in nats/token, {self.level:.0%} intervals by profile likelihood",
            *self.held_text(),
            "",
            f"noise of one run by class and budget{self._classes_text()}:",
        ]
        n = sum(d.primary for d in self.differences)
        holm = f", Holm's correction for {pluralize(n, 'primary one')}" if n else ""
        lowest, minima = ["", "lowest losses:"], _MINIMA.replace("sizes=", f"{what}s=")
        return [
            Table(rows=self.noises, columns=_NOISES, digits=3, head=head),
            Table(rows=self.minima, columns=minima, named=self.x_name, digits=5, head=lowest),
            replace(self.of_differences, head=["", f"differences of lowest losses{holm}:"]),
            *self._slopes(),
            *self._needed(),
        ]

    def held_text(self) -> list[str]:
        """Errors that are in the intervals, and those that are not, in lines."""
        lacks = [f"  and not {'; '.join(self.lacks)}"] if self.lacks else []
        return [f"intervals hold {'; '.join(self.holds)}", *lacks]

    def _classes_text(self) -> str:
        members: dict[str, list[str]] = {}
        for layer, name in self.classes.items():
            members.setdefault(name, []).append(layer)
        said = [f"{name} = {', '.join(own)}" for name, own in members.items() if [name] != own]
        tested = f"equal within: p = {self.p_classes:.2g}" if self.named else (
            f"all layers equal: p = {self.p_classes:.2g}"
        )  # fmt: skip
        return f" ({'; '.join([*said, tested])})"

    def _slopes(self) -> list[Table]:
        said = "slopes of ln(multiplier) over ln(compute), 0: the same saving at all budgets:"
        return [Table(rows=self.slopes, columns=_SLOPES, head=["", said])] if self.slopes else []

    def _needed(self) -> list[Table]:
        """Seeds that are missing for the half-width, by width alone and never by a sign."""
        if self.stop is None:
            return []
        done = sum(one.seeds == 0 for one in self.needed)
        never = [one.name for one in self.needed if one.seeds is None]
        open_ = "stop" if done == len(self.needed) else "go on with the others, whatever their sign"
        if never and done + len(never) == len(self.needed):
            open_ = "more seeds won't help the others" if done else "more seeds won't help"
        notes = [f"{done} of {len(self.needed)} have it: {open_}"]
        if never:
            notes.append(
                f"no number of seeds is enough for {join_first(never, 6)}: what is left is the "
                "scatter about the curves, documents or rates"
            )
        head = ["", f"for a half-width of {self.stop:g}, by the noise of these runs:"]
        return [Table(rows=self.needed, columns=_NEEDED, head=head, notes=notes)]


_CENTRES = {"free": "free", "layer+budget": "= of the layer + of the budget"}
_DIFFERENCES = (
    "layer, minus=baseline, budget=budgets|budgets, difference=value|+.4f, dof|.1f, p|.2g, "
    "p_holm|.2g, p_equal|.2g, multiplier|own, sources|each .0%, moves|each +.4f"
)
_MINIMA = "layer, budget|flops, sizes=n_sizes, runs=n_runs, {}*=size|plain, loss*=loss"
_NOISES = (
    "class=of, budget|flops, noise=sd, dof|first, of=source, seeds, seeds' dof=seeds_dof, "
    "lack of fit=lack, p=chance"
)
_SLOPES = "layer, minus=baseline, budgets|list, slope=value|own +.3f, p|.2g"
_NEEDED = (
    "difference=name, half-width=half_width|fourth, more seeds of each size=more, runs, FLOPs=cost"
)
