"""Learning and forgetting of models that learn domains one after another, compared.

Beside the metrics of ways.py are the tasks that the runs were scored on at their end, such as facts
(docs/tasks.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table
from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Estimate, mean_by_t
from analysis.forgetting.equal import EqualLearning, compare_at_learning
from analysis.forgetting.ways import METRICS, find_way, read_metrics, read_order, unreadable
from experiments.records.record import RunRecord

TASK_METRICS = ("acc", "bits_per_byte")
_TASK = "tasks/"  # of a record's evaluations


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A way to go on learning at one learning rate, over its streams. In bits per byte.

    orders, seeds: of its runs. lr: the peak, of the backbone. tasks: those that all of its runs
    were scored on, each with its TASK_METRICS: the share of right choices, and bits/byte of the
    right answers.
    """

    way: str
    lr: float
    n_layers: int
    n_domains: int
    n_runs: int
    n_orders: int
    n_trained_params: float
    flops: float
    learning: Estimate
    forgetting: Estimate
    backward: Estimate
    forward: Estimate
    base: Estimate
    tasks: Mapping[str, Mapping[str, Estimate]]

    @property
    def scores(self) -> list["_Score"]:
        return [
            _Score(self.way, self.lr, name, one["acc"], one["bits_per_byte"])
            for name, one in self.tasks.items()
        ]


class _Score(NamedTuple):
    """A way's score on one task, to print."""

    way: str
    lr: float
    task: str
    acc: Estimate
    bits_per_byte: Estimate


@dataclass(frozen=True, kw_only=True, repr=False)
class Forgetting(Comparison):
    """Ways to go on learning, each at its learning rates; intervals at `level` over streams.

    equal: the same ways where all have learnt as much; None of streams of one domain.
    """

    level: float
    ways: tuple[Kept, ...]
    equal: EqualLearning | None

    @property
    def warnings(self) -> tuple[str, ...]:
        single = [f"{kept.way} at {kept.lr:.2g}" for kept in self.ways if kept.n_runs < 2]
        alone = [f"one stream alone, so without an interval: {', '.join(single)}"] if single else []
        return (*self.of_table, *alone)

    def tables(self) -> list[Table]:
        note = (
            f"bits/byte, means over domains and streams with {self.level:.0%} intervals of "
            "Student's t over streams; learning: what a stage gains on its domain; forgetting: "
            "what is lost of the best loss by the end; base: what is lost on the base corpus"
        )
        found = [Table(rows=self.ways, shown=_SHOWN, notes=[note])]
        scores = [score for kept in self.ways for score in kept.scores]
        if scores:
            said = "tasks, at the end: share of right choices (acc), bits/byte of the right answers"
            found.append(Table(rows=scores, columns=_SCORES, notes=[said]))
        return found

    def summary(self) -> str:
        text = super().summary()
        return text if self.equal is None else f"{text}\n\n{self.equal.summary()}"


_SHOWN = (
    "way, rate=lr|.2g, domains=n_domains, FLOPs=flops|flops, streams=n_runs, "
    f"trained=n_trained_params|count, {', '.join(f'{name}|signed' for name in METRICS)}"
)
_SCORES = "way, rate=lr|.2g, task, acc|interval, bits_per_byte|interval"


def compare_forgetting(
    records: Iterable[RunRecord],
    *,
    level: float = 0.95,
    learning: float | None = None,
    baseline: str | None = None,
) -> Forgetting:
    """Compares the runs that learnt a stream (data=stream).

    learning, baseline: of compare_at_learning. Raises ValueError without a run, and as that does.
    """
    check_level(level)
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        if has_learnt(record):
            if (why := unreadable(record)) is not None:
                raise ValueError(why)
            same = (record.n_layers, record.budget, len(read_order(record)), record.lr)
            groups.setdefault((find_way(record), *same), []).append(record)
    if not groups:
        raise ValueError("no run has learnt a stream: this takes runs of data=stream")
    ways = [_kept(runs, level) for runs in groups.values()]
    if all(kept.n_domains < 2 for kept in ways):
        for name, value in (("learning", learning), ("baseline", baseline)):
            if value is not None:
                raise ValueError(f"{name}={value} is of streams of several domains; leave it out")
    several = [r for runs in groups.values() for r in runs if len(read_order(r)) > 1]
    return Forgetting(
        level=level,
        ways=tuple(sorted(ways, key=lambda kept: (kept.way, kept.lr))),
        equal=compare_at_learning(several, level=level, learning=learning, baseline=baseline)
        if several
        else None,
    )


def has_learnt(record: RunRecord) -> bool:
    """Whether a run is one of those that are compared."""
    return record.status == "done" and len(record.stages) > 1


def _kept(runs: Sequence[RunRecord], level: float) -> Kept:
    found = pd.DataFrame([read_metrics(run) for run in runs])
    estimates = {name: mean_by_t(found[name].to_numpy(), level) for name in METRICS}
    return Kept(
        way=find_way(runs[0]),
        lr=runs[0].lr,
        n_layers=runs[0].n_layers,
        n_domains=len(read_order(runs[0])),
        n_runs=len(runs),
        n_orders=len({tuple(read_order(run)) for run in runs}),
        n_trained_params=float(np.mean([run.n_trained_params or run.n_params for run in runs])),
        flops=float(np.mean([run.achieved_flops or run.planned_flops for run in runs])),
        **estimates,
        tasks=_group_tasks(runs, level),
    )


def _group_tasks(runs: Sequence[RunRecord], level: float) -> dict[str, dict[str, Estimate]]:
    names = [name for name in runs[0].evaluations if name.startswith(_TASK)]
    found = {}
    for name in names:
        if all(name in run.evaluations for run in runs):
            # a task of lm-evaluation-harness has other metrics, one without choices no acc
            found[name.removeprefix(_TASK)] = {
                m: mean_by_t(np.array([_number(r.evaluations[name].get(m)) for r in runs]), level)
                for m in TASK_METRICS
            }
    return found


def _number(value: object) -> float:
    """nan for what is none."""
    return float(value) if isinstance(value, (int, float)) else float("nan")
