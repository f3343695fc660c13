"""Gain of adapting a model to a domain, and its cost on other text."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table, noise_warnings, pooled_noise
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.fitting.text import pluralize
from analysis.table.checks import check_losses, check_types, finished, refuse, require
from analysis.table.warned import warned

GENERAL = "wikitext2"  # the set that stands for other text
_OWN = "validation"  # of the run's own corpus
_TRAINED = ("layer", "tables", "all", "lora")  # init.train


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """One way to adapt, over its seeds. Losses are nats/token.

    gain: the loss on the domain before, minus after. change: the loss on other text after, minus
    before. n_trained_params: what training changes. flops: of the training.
    """

    way: str
    n_seeds: int
    n_trained_params: float
    n_tokens: float
    flops: float
    before: float
    gain: Estimate
    change: Estimate


@dataclass(frozen=True, kw_only=True, repr=False)
class Adaptation(Comparison):
    """Ways to adapt the same weights to one domain, the largest gain first.

    general: the set that stands for other text. sd, dof: of a single run's gain and change, pooled
    over the ways; the intervals are Student's t at `level`.
    """

    general: str
    level: float
    sd: tuple[float, float]
    dof: int
    ways: tuple[Adapted, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.of_table, *noise_warnings(self.dof, "no way was run with two seeds or more"))

    def tables(self) -> list[Table]:
        note = (
            f"nats/token, means over seeds with {self.level:.0%} intervals of the noise of seeds, "
            f"pooled over the ways ({pluralize(self.dof, 'degree')} of freedom)"
        )
        return [Table(rows=self.ways, shown=_SHOWN, named=self.general, notes=[note])]


_SHOWN = (
    "way, seeds=n_seeds, trained=n_trained_params|count, tokens=n_tokens|count, "
    "FLOPs=flops|flops, before|.4f, gain on the domain=gain|signed, change on {}=change|signed"
)


def columns_of_starts(general: str) -> tuple[str, ...]:
    """Fields of records that compare_adaptations reads beside the usual columns."""
    before = (f"before.{_OWN}.loss", f"before.{general}.loss")
    return (*before, f"{general}.loss", "init.how", "init.train", "n_trained_params")


@warned(by_cell=False)
def compare_adaptations(
    table: pd.DataFrame, general: str = GENERAL, *, level: float = 0.95
) -> Adaptation:
    """Compares the runs of a table that started from one model's weights, on one domain.

    Raises ValueError for runs that started from nothing, or that were not scored on `general`
    before and after (eval=[NAME] of experiments.run).
    """
    runs = finished(table)
    before = columns_of_starts(general)[:2]
    missing = [name for name in columns_of_starts(general) if name not in runs]
    if missing:
        raise ValueError(
            f"the table has no {', '.join(missing)}: it takes runs that started from weights "
            f"(init=...) and were scored on {general} (eval=[{general}])"
        )
    require(runs, ["n_tokens", "budget"], "compare_adaptations")
    of_numbers = (*before, f"{general}.loss", "n_trained_params")
    check_types(runs, numbers=of_numbers, texts=("init.how", "init.train"))
    for name in (*before, f"{general}.loss"):
        check_losses(runs, name)
    few = runs["n_trained_params"].astype("float64") < 1
    refuse(runs, "n_trained_params", few, "must be 1 or more")
    starts = runs[before[0]].dropna().round(4).nunique()
    measured = pd.DataFrame(
        {
            "way": [_way(row) for _, row in runs.iterrows()],
            "before": runs[before[0]],
            "gain": runs[before[0]] - runs["loss"],
            "change": runs[f"{general}.loss"] - runs[before[1]],
            "n_trained_params": runs["n_trained_params"],
            "n_tokens": runs["n_tokens"],
            "flops": runs["budget"],
        }
    ).dropna(subset=["gain", "change"])
    started = runs.loc[measured.index]
    refuse(started, "init.how", started["init.how"].isna(), "is missing, and its run has started")
    wrong = ~started["init.train"].isin(_TRAINED)
    refuse(started, "init.train", wrong, f"must be one of {', '.join(_TRAINED)}")
    if measured.empty:
        raise ValueError(f"no run has losses on its domain and on {general}, before and after")
    if starts > 1 and not runs["init.how"].isin(["replace", "upcycle"]).any():
        raise ValueError(
            f"the runs start at {starts} different losses: they are of several domains or models; "
            "keep one by --where, or name one sweep's folder"
        )
    groups = measured.groupby("way", sort=False)
    (gain_sd, dof), (change_sd, _) = (
        pooled_noise(measured[name], [measured["way"]]) for name in ("gain", "change")
    )
    sd = (gain_sd, change_sd)
    width = t_quantile(dof, level)
    ways = [_adapted(str(way), rows, sd, width) for way, rows in groups]
    return Adaptation(
        general=general,
        level=level,
        sd=sd,
        dof=dof,
        ways=tuple(sorted(ways, key=lambda way: -way.gain.value)),
    )


def _way(row: pd.Series) -> str:
    """A run's way to adapt, in a few words: full fine-tuning, LoRA, peer beside."""
    how, train = row["init.how"], row["init.train"]
    if train == "lora":
        return "LoRA"
    if train == "all":
        return "full fine-tuning" if how == "keep" else f"{row['series']} {how}, all trained"
    return f"{row['series']} {how}"


def _adapted(way: str, rows: pd.DataFrame, sd: tuple[float, ...], width: float) -> Adapted:
    n = len(rows)
    gain, change = (
        Estimate.around(float(rows[name].mean()), width * noise / np.sqrt(n))
        for name, noise in zip(("gain", "change"), sd, strict=True)
    )
    means = rows[["n_trained_params", "n_tokens", "flops", "before"]].astype("float64").mean()
    return Adapted(
        way=way,
        n_seeds=n,
        n_trained_params=float(means["n_trained_params"]),
        n_tokens=float(means["n_tokens"]),
        flops=float(means["flops"]),
        before=float(means["before"]),
        gain=gain,
        change=change,
    )
