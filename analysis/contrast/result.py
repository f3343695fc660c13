"""Results of a contrast: lowest losses, their differences, and the noise that both have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import numbers
from analysis.contrast.curves import Centres, Curvature
from analysis.contrast.noise import GroupNoise
from analysis.contrast.slopes import Slope
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import Warned
from analysis.fitting.text import format_status, in_columns, join_first, pluralize

NOT_REGISTERED = "not as registered"  # the column of lines that were moved
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Contrasts(Warned):
    """Lowest losses by curves of all layers and budgets together, and their differences.

    classes: layer -> class of equal noise, named: by whom they were asked for; p_classes: the
    chance of noises so unequal within classes; curvatures: layer -> k of k (ln size - ln size*)^2,
    one for all or one each; p_curvature: the chance of curvatures so unequal where all have one,
    nan if not tested; holds, lacks: the errors that are in the intervals, and those that are not;
    slopes: of each two layers that are compared at several budgets, none where the multipliers
    don't exist; margin: nats, of equivalence; stop: the half-width wanted, needed: the seeds for
    it, of the primary differences; left_out: what has no curve; moved: Held's.
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
    moved: tuple[str, ...] = ()

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

    def to_frame(self) -> pd.DataFrame:
        """A row a difference."""
        return with_moved(
            [
                {
                    "layer": d.layer,
                    "minus": d.baseline,
                    "budget": _budgets(d.budgets),
                    "difference": d.value.value,
                    "lower": d.value.lower,
                    "upper": d.value.upper,
                    "dof": d.dof,
                    "p": d.p,
                    "p_holm": d.p_holm,
                    "p_equal": d.p_equal,
                    **d.multiplier.columns("multiplier"),
                    **_by_source(d),
                }
                for d in self.differences
            ],
            self.moved,
        )

    def slopes_frame(self) -> pd.DataFrame:
        """A row two layers."""
        return with_moved(
            [
                {
                    "layer": one.layer,
                    "minus": one.baseline,
                    "budgets": ", ".join(map(numbers.flops, one.budgets)),
                    **one.value.columns("slope"),
                    "p": one.p,
                }
                for one in self.slopes
            ],
            self.moved,
        )

    def minima_frame(self) -> pd.DataFrame:
        """A row a layer and budget."""
        return with_moved(
            [
                {
                    "layer": m.layer,
                    "budget": numbers.flops(m.budget),
                    "sizes": m.n_sizes,
                    "runs": m.n_runs,
                    f"{self.x_name}*": numbers.with_interval(*m.size),
                    "loss*": m.loss.value,
                    "lower": m.loss.lower,
                    "upper": m.loss.upper,
                }
                for m in self.minima
            ],
            self.moved,
        )

    def noise_frame(self) -> pd.DataFrame:
        """A row a class and budget."""
        return with_moved(
            [
                {
                    "class": n.of,
                    "budget": numbers.flops(n.budget),
                    "noise": n.sd,
                    "dof": round(n.dof, 1),
                    "of": n.source,
                    "seeds": n.seeds,
                    "seeds' dof": n.seeds_dof,
                    "lack of fit": n.lack,
                    "p": n.chance,
                }
                for n in self.noises
            ],
            self.moved,
        )

    def summary(self) -> str:
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
        counts = f"{pluralize(self.n_points, 'size')}, {pluralize(self.n_runs, 'run')}"
        lines = [
            f"curves of ln({self.x_name}), best sizes {_CENTRES[self.centres]}, {bends}{tested}: "
            f"{counts}; losses in nats/token, {self.level:.0%} intervals by profile likelihood",
            *self.held_text(),
            "",
            f"noise of one run by class and budget{self._classes_text()}:",
            in_columns(self.noise_frame(), 3),
            "",
            "lowest losses:",
            in_columns(self.minima_frame(), 5),
            "",
            "differences of lowest losses" + self._holm_text() + ":",
            self._differences_text(),
            *self._slopes_text(),
            *self._stop_text(),
        ]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

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

    def _holm_text(self) -> str:
        n = sum(d.primary for d in self.differences)
        return f", Holm's correction for {pluralize(n, 'primary one')}" if n else ""

    def _differences_text(self) -> str:
        texts = [numbers.with_interval(*d.multiplier) for d in self.differences]
        frame = self.to_frame().drop(columns=["multiplier_lower", "multiplier_upper"])
        frame["multiplier"] = ["" if text == "nan" else text for text in texts]
        said = (
            f"p_equal: of a difference of {self.margin:g} or more; " if self.margin else ""
        ) + "multiplier: of the compute of the layer subtracted, by its own joined frontier"
        if "rates_shift" in frame:
            said += "; rates_shift: what the best rates would add"
        return f"{shown(frame)}\n{said}"

    def _slopes_text(self) -> list[str]:
        if not self.slopes:
            return []
        frame = self.slopes_frame()
        for name in ("slope", "slope_lower", "slope_upper"):
            frame[name] = frame[name].map("{:+.3f}".format)
        frame["p"] = frame["p"].map("{:.2g}".format)
        return [
            "",
            "slopes of ln(multiplier) over ln(compute), 0: the same saving at all budgets:",
            frame.to_string(index=False),
        ]

    def _stop_text(self) -> list[str]:
        """Seeds that are missing for the half-width, by width alone and never by a sign."""
        if self.stop is None:
            return []
        rows = [
            {
                "difference": one.name,
                "half-width": round(one.half_width, 4),
                "more seeds of each size": "no number" if one.seeds is None else one.seeds,
                "runs": one.runs,
                "FLOPs": numbers.flops(one.flops) if one.runs else "0",
            }
            for one in self.needed
        ]
        done = sum(one.seeds == 0 for one in self.needed)
        never = [one.name for one in self.needed if one.seeds is None]
        open_ = "stop" if done == len(rows) else "go on with the others, whatever their sign"
        if never and done + len(never) == len(rows):
            open_ = "more seeds won't help the others" if done else "more seeds won't help"
        return [
            "",
            f"for a half-width of {self.stop:g}, by the noise of these runs:",
            pd.DataFrame(rows).to_string(index=False),
            f"{done} of {len(rows)} have it: {open_}",
            *(
                [
                    f"no number of seeds is enough for {join_first(never, 6)}: what is left is the "
                    "scatter about the curves, documents or rates"
                ]
                if never
                else []
            ),
        ]


_CENTRES = {"free": "free", "layer+budget": "= of the layer + of the budget"}


def with_moved(rows: list[dict[str, Any]], moved: tuple[str, ...]) -> pd.DataFrame:
    """Rows as a frame, whose every line names the options that moved it and were not registered."""
    names = ", ".join(text.split()[0] for text in moved)
    return pd.DataFrame([{**row, NOT_REGISTERED: names} for row in rows] if moved else rows)


def _budgets(budgets: tuple[float, ...]) -> str:
    """ "3e13", or "mean of 1e13, 3e13"."""
    shown = ", ".join(map(numbers.flops, budgets))
    return shown if len(budgets) == 1 else f"mean of {shown}"


def _by_source(one: Difference) -> dict[str, float]:
    """Shares of the variance where there is more than noise, and shifts."""
    shares = one.shares if len(one.shares) > 1 else {}
    shifts = {f"{name}_shift": by for name, by in one.shifts.items()}
    return {**{f"share_{name}": share for name, share in shares.items()}, **shifts}


def shown(frame: pd.DataFrame) -> str:
    """A frame of differences as lines of text, without the columns that are empty."""
    nats = dict.fromkeys(("difference", "lower", "upper", "rates_shift"), "{:+.4f}".format)
    chances = dict.fromkeys(("p", "p_holm", "p_equal"), lambda p: "" if p != p else f"{p:.2g}")
    frame = frame.dropna(axis=1, how="all")
    names = [name for name in map(str, frame) if name.startswith("share_")]
    formats: dict[str, Callable[[Any], str]] = {
        **nats,
        **chances,
        **dict.fromkeys(names, "{:.0%}".format),
        "dof": "{:.1f}".format,
    }
    return frame.to_string(
        index=False, formatters={name: form for name, form in formats.items() if name in frame}
    )
