"""How much of what a larger layer gains is gained by growing into it.

closed = (L_small - L_grown) / (L_small - L_large), at equal total FLOPs: those of a grown run are
its own and its parents'. Expert Upcycling (arXiv:2604.19835) calls it gap closure.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table, noise_warnings, pooled_noise
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.fitting.text import pluralize
from analysis.table.checks import check_types, finished, refuse, require
from analysis.table.histories import history_paths, read_history
from analysis.table.warned import warned

_HOWS = ("bias", "copies", "beside")
_NUMBERS, _TEXTS = (
    ("init.parent.n_experts", "init.parent.flops"),
    ("init.how", "init.parent.run_id"),
)
COLUMNS = (*_TEXTS, *_NUMBERS, "run_id", "n_experts", "lr")
_THROUGHOUT = "throughout"
_TOLERANCE = 0.02  # total FLOPs that are told equal
_N_POINTS = 40  # of a drawn curve
_DRAWN = ("flops", "loss")


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A way to grow from `small` to `large` experts. Losses are means over seeds, nats/token.

    flops: in all, of each of the three. start: the share of them after which the layer grew.
    gain: of the larger layer, L_small - L_large. closed: the share of it that growing gains; nan
    and without an interval where the gain is not significant.
    """

    model: str
    how: str
    small: float
    large: float
    flops: float
    start: float
    n_seeds: tuple[int, int, int]  # small, grown, large
    loss_small: float
    loss_grown: float
    loss_large: float
    gain: Estimate
    closed: Estimate

    @property
    def name(self) -> str:
        return (
            f"{self.model} {self.small:,.0f} to {self.large:,.0f} experts by {self.how}, at "
            f"{self.start:.0%} of the FLOPs"
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Training losses of one kind of run against all FLOPs, means over seeds and of neighbours.

    grown_at: the FLOPs at which the layer grew, if it did.
    """

    name: str
    flops: tuple[float, ...]
    loss: tuple[float, ...]
    grown_at: float | None = None


@dataclass(frozen=True, kw_only=True, repr=False)
class Growth(Comparison):
    """Ways to grow. sd, dof: of a single run's loss, pooled over all kinds of runs."""

    level: float
    sd: float
    dof: int
    ways: tuple[Grown, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        said = [*self.of_table, *noise_warnings(self.dof, "nothing was run with two seeds or more")]
        for way in self.ways if self.dof else ():
            if not np.isfinite(way.closed.lower):
                said.append(
                    f"{way.name}: the gain of {way.large:,.0f} experts is not "
                    "significant, so the share of it is not identifiable; run more seeds"
                )
        return tuple(said)

    def tables(self) -> list[Table]:
        note = (
            "losses in nats/token, means over seeds (of small, grown, large) at equal total FLOPs; "
            f"{self.level:.0%} intervals of the noise of seeds, sd {self.sd:.3g} "
            f"({pluralize(self.dof, 'degree')} of freedom); that of the share is Fieller's"
        )
        return [Table(rows=self.ways, shown=_SHOWN, notes=[note])]


_SHOWN = (
    "way=name, seeds=n_seeds|words, FLOPs=flops|flops, small=loss_small|.4f, grown=loss_grown|.4f, "
    "large=loss_large|.4f, gain of large=gain|signed, share closed=closed|interval"
)


@warned(by_cell=False)
def compare_growth(table: pd.DataFrame, *, level: float = 0.95) -> Growth:
    """Compares the grown runs of a table with those that had few, and many, experts throughout.

    Raises ValueError for a table without grown runs, or without the others at equal total FLOPs.
    """
    runs = finished(table)
    missing = [name for name in COLUMNS if name not in runs]
    check_types(runs, numbers=_NUMBERS, texts=_TEXTS)
    for name in set(_NUMBERS) & set(runs):
        refuse(runs, name, runs[name].astype("float64") < 1, "must be 1 or more")
    grown = runs[has_grown(runs)] if not missing else runs[:0]
    if grown.empty:
        raise ValueError(
            "the table has no grown runs: it takes runs of init=run init.how=bias, copies or "
            "beside, and runs of few and of many experts at the same total FLOPs"
        )
    require(runs, ["loss", "budget", "n_experts"], "compare_growth")
    runs = runs.assign(total=runs["budget"] + runs["init.parent.flops"].fillna(0.0))
    runs["kind"] = [_kind(row) for _, row in runs.iterrows()]
    same = [runs[name] for name in ("model", "kind", "n_experts", "budget", "lr")]
    sd, dof = pooled_noise(runs["loss"], same)
    ways = []
    keys = ["model", "init.how", "init.parent.n_experts", "n_experts", "budget", "lr"]
    for (_, _, small, *_), rows in runs[has_grown(runs)].groupby(keys, dropna=False):
        large = _n_in_all(rows.iloc[0])
        few, many = (_throughout(runs, rows, n) for n in (small, large))
        ways.append(_compared(rows, few, many, sd, dof, level))
    return Growth(level=level, sd=sd, dof=dof, ways=tuple(ways))


def _n_in_all(row: pd.Series) -> float:
    """Experts of the run's layer, nan without. With beside n_experts is the second's alone."""
    if pd.isna(row["n_experts"]):
        return float("nan")
    more = row["init.parent.n_experts"] if row["init.how"] == "beside" else 0
    return float(row["n_experts"] + more)


def has_grown(runs: pd.DataFrame) -> pd.Series:
    """Whether a run went on with more experts than its parent, which had some."""
    had = runs["init.parent.n_experts"].notna() & runs["n_experts"].notna()
    return runs["init.how"].isin(_HOWS) & had


def _kind(row: pd.Series) -> str:
    how = row["init.how"]
    return f"{how} from {row['init.parent.n_experts']}" if isinstance(how, str) else _THROUGHOUT


def _throughout(runs: pd.DataFrame, grown: pd.DataFrame, n_experts: object) -> pd.DataFrame:
    """Runs of the same model that had n_experts all along, at the grown runs' total FLOPs."""
    total, model = float(grown["total"].mean()), grown["model"].iloc[0]
    equal = (runs["total"] / total - 1).abs() < _TOLERANCE
    same = (runs["model"] == model) & (runs["n_experts"] == n_experts)
    found = runs[(runs["kind"] == _THROUGHOUT) & same & equal]
    if found.empty:
        raise ValueError(
            f"no run of {model} has n_experts={n_experts:g} throughout at {total:.3g} FLOPs, which "
            f"the runs grown by {grown['init.how'].iloc[0]} have in all; run it, or leave these "
            "out by --where"
        )
    return found


def _compared(
    rows: pd.DataFrame,
    few: pd.DataFrame,
    many: pd.DataFrame,
    sd: float,
    dof: int,
    level: float,
) -> Grown:
    """rows: runs that grew from as many experts as `few` has to as many as `many`."""
    parts = (few, rows, many)
    low, mid, high = (float(part["loss"].mean()) for part in parts)
    n = tuple(len(part) for part in parts)
    variances = [sd**2 / m for m in n]
    width, total = t_quantile(dof, level), float(rows["total"].mean())
    gain, half = low - high, width * float(np.sqrt(variances[0] + variances[2]))
    return Grown(
        model=str(rows["model"].iloc[0]),
        how=str(rows["init.how"].iloc[0]),
        small=float(few["n_experts"].iloc[0]),
        large=float(many["n_experts"].iloc[0]),
        flops=total,
        start=float(rows["init.parent.flops"].mean()) / total,
        n_seeds=(n[0], n[1], n[2]),
        loss_small=low,
        loss_grown=mid,
        loss_large=high,
        gain=Estimate.around(gain, half),
        closed=_ratio(low - mid, gain, variances, width),
    )


def _ratio(numerator: float, gain: float, variances: list[float], width: float) -> Estimate:
    """(a - b) / (a - c) with Fieller's interval (1954), a, b and c being independent means.

    All ratios r with |numerator - r gain| <= width sd(numerator - r gain), where that is between
    two numbers: where the gain is significant.
    """
    a, b, c = variances
    square = width**2
    lead = gain**2 - square * (a + c)
    value = numerator / gain if gain else float("nan")
    if not lead > 0:
        return Estimate(value, float("nan"), float("nan"))
    middle = numerator * gain - square * a
    last = numerator**2 - square * (a + b)
    root = float(np.sqrt(max(0.0, middle**2 - lead * last)))
    return Estimate(value, (middle - root) / lead, (middle + root) / lead)


def read_curves(table: pd.DataFrame, folder: Path) -> tuple[Curve, ...]:
    """Training losses from the histories beside the records, as far as they are there and whole.

    A grown run's curve is its parent's and then its own.
    """
    runs = finished(table)
    if not set(COLUMNS) <= set(runs.columns):
        return ()
    paths = history_paths(folder)
    found: dict[str, list[pd.DataFrame]] = {}
    moments: dict[str, float] = {}
    for _, row in runs.iterrows():
        grew = row["init.how"] in _HOWS
        if row["run_id"] not in paths or (grew and pd.isna(row["init.parent.n_experts"])):
            continue  # a parent without experts is no growth
        history = read_history(paths[row["run_id"]], _DRAWN)
        n = _n_in_all(row)
        name = str(row["model"]) if np.isnan(n) else f"{row['model']} {n:,.0f}"
        if grew:
            name = f"{name}, grown by {row['init.how']} from {row['init.parent.n_experts']:,.0f}"
            moments[name] = float(row["init.parent.flops"])
            history = history.assign(flops=history["flops"] + moments[name])
            parent = paths.get(row["init.parent.run_id"])
            if parent is not None:
                history = pd.concat([read_history(parent, _DRAWN), history])
        elif row["run_id"] in set(runs["init.parent.run_id"].dropna()):
            continue  # it is the beginning of another curve
        found.setdefault(name, []).append(history)
    return tuple(_mean_curve(name, parts, moments.get(name)) for name, parts in found.items())


def _mean_curve(name: str, histories: list[pd.DataFrame], grown_at: float | None) -> Curve:
    """Means in _N_POINTS equal parts of the FLOPs."""
    every = pd.concat(histories)
    part = np.minimum(_N_POINTS - 1, every["flops"] / every["flops"].max() * _N_POINTS).astype(int)
    means = every.groupby(part)[["flops", "loss"]].mean()
    drawn = {column: tuple(means[column]) for column in _DRAWN}
    return Curve(name=name, grown_at=grown_at, **drawn)
