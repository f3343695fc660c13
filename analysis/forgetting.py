"""What a model that learns domains one after another learns, and what it forgets.

L[i][j] is the loss on domain j after stage i, in bits per byte; stage 0 is the start, and domain j
is learnt in stage j of T. Means over domains (Lopez-Paz 2017, arXiv:1706.08840; Chaudhry 2018,
arXiv:1801.10112, for losses instead of accuracies):

learning          L[j-1][j] - L[j][j]
forgetting        L[T][j] - min over i <= T of L[i][j], of the domains before the last
backward          L[j][j] - L[T][j], of the domains before the last; below 0 is forgetting
forward           L[0][j] - L[j-1][j], of the domains after the first
base              L[T] - L[0] on the base corpus

A stage of all domains together ("joint") learns L[0][j] - L[1][j] of each.

Beside these are the tasks that the runs were scored on at their end (docs/tasks.md), such as facts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus, status_of
from analysis.fitting.text import format_status
from experiments.records import RunRecord

METRICS = ("learning", "forgetting", "backward", "forward", "base")
TASK_METRICS = ("acc", "bits_per_byte")
_BASE = "base"
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


@dataclass(frozen=True, kw_only=True, repr=False)
class Forgetting(Result):
    """Ways to go on learning, each at its learning rates; intervals at `level` over streams."""

    level: float
    ways: tuple[Kept, ...]

    @property
    def status(self) -> FitStatus:
        return status_of(self.warnings)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of what the intervals rest on."""
        single = [f"{kept.way} at {kept.lr:.2g}" for kept in self.ways if kept.n_runs < 2]
        if not single:
            return ()
        return (f"one stream alone, so without an interval: {', '.join(single)}",)

    def summary(self) -> str:
        """The table, and what its columns are."""
        shown = pd.DataFrame(
            {
                "way": [kept.way for kept in self.ways],
                "rate": [f"{kept.lr:.2g}" for kept in self.ways],
                "domains": [kept.n_domains for kept in self.ways],
                "FLOPs": [numbers.flops(kept.flops) for kept in self.ways],
                "streams": [kept.n_runs for kept in self.ways],
                "trained": [numbers.count(kept.n_trained_params) for kept in self.ways],
                **{name: [_shown(getattr(kept, name)) for kept in self.ways] for name in METRICS},
            }
        )
        note = (
            f"bits/byte, means over domains and streams with {self.level:.0%} intervals of "
            "Student's t over streams; learning: what a stage gains on its domain; forgetting: "
            "what is lost of the best loss by the end; base: what is lost on the base corpus"
        )
        lines = [shown.to_string(index=False), note]
        if any(kept.tasks for kept in self.ways):
            lines += [
                self._tasks().to_string(index=False),
                "tasks, at the end: share of right choices (acc), bits/byte of the right answers",
            ]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

    def _tasks(self) -> pd.DataFrame:
        """A row a way and task, to print."""
        rows = []
        for kept in self.ways:
            for name, score in kept.tasks.items():
                shown = {metric: _shown(score[metric], signed=False) for metric in TASK_METRICS}
                rows.append({"way": kept.way, "rate": f"{kept.lr:.2g}", "task": name, **shown})
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """A row a way and rate."""
        rows = []
        for kept in self.ways:
            row: dict[str, object] = {
                name: getattr(kept, name)
                for name in (
                    "way", "lr", "n_layers", "n_domains", "n_runs", "n_orders", "n_trained_params",
                    "flops",
                )
            }  # fmt: skip
            for name in METRICS:
                row |= getattr(kept, name).columns(name)
            for task, score in kept.tasks.items():
                for metric in TASK_METRICS:
                    row |= score[metric].columns(f"{task}_{metric}")
            rows.append(row)
        return pd.DataFrame(rows)


def compare_forgetting(records: Iterable[RunRecord], *, level: float = 0.95) -> Forgetting:
    """Compares the runs that learnt a stream (data=stream).

    Raises ValueError without one.
    """
    check_level(level)
    groups: dict[tuple[object, ...], list[RunRecord]] = {}
    for record in records:
        if record.status == "done" and len(record.stages) > 1:
            same = (record.n_layers, record.budget, len(_order(record)), record.lr)
            groups.setdefault((way_of(record), *same), []).append(record)
    if not groups:
        raise ValueError("no run has learnt a stream: this takes runs of data=stream")
    ways = [_kept(runs, level) for runs in groups.values()]
    return Forgetting(level=level, ways=tuple(sorted(ways, key=lambda kept: (kept.way, kept.lr))))


def metrics_of(record: RunRecord) -> dict[str, float]:
    """METRICS of one run; nan where there is no domain that one is of."""
    rows = [
        {name: float(score["bits_per_byte"]) for name, score in row["scores"].items()}
        for row in record.stages
    ]
    order, last = _order(record), rows[-1]
    base = last[_BASE] - rows[0][_BASE]
    if len(rows) != len(order) + 1:  # all of them in one stage
        learnt = [rows[0][name] - last[name] for name in order]
        return {**dict.fromkeys(METRICS, np.nan), "learning": _mean(learnt), "base": base}
    before = {name: rows[j][name] for j, name in enumerate(order)}
    after = {name: rows[j + 1][name] for j, name in enumerate(order)}
    best = {name: min(row[name] for row in rows) for name in order}
    return {
        "learning": _mean([before[name] - after[name] for name in order]),
        "forgetting": _mean([last[name] - best[name] for name in order[:-1]]),
        "backward": _mean([after[name] - last[name] for name in order[:-1]]),
        "forward": _mean([rows[0][name] - before[name] for name in order[1:]]),
        "base": base,
    }


def way_of(record: RunRecord) -> str:
    """How a run learns and keeps, in a few words: peer 4,096, tables alone, top 256 rows."""
    config = record.config
    init, continual = config.get("init") or {}, config.get("continual") or {}
    experts = "" if record.n_experts is None else f" {record.n_experts:,}"
    words = [record.model + experts]
    train, how = init.get("train", "all"), init.get("how", "keep")
    words += {"all": [], "layer": ["layer alone"], "tables": ["tables alone"], "lora": ["LoRA"]}[
        train
    ]
    if how != "keep":
        words.append(how)
    said = {
        "top_rows": "top {} rows", "replay": "replay {:g}", "distil": "distillation {:g}",
        "l2": "L2 {:g}",
    }  # fmt: skip
    words += [text.format(continual[n]) for n, text in said.items() if continual.get(n)]
    if _corpus(config).get("joint"):
        words.append("joint")
    elif len(_order(record)) == 1:
        words.append("one domain")
    return ", ".join(words)


def _order(record: RunRecord) -> list[str]:
    order: list[str] = list(_corpus(record.config)["order"])
    return order


def _corpus(config: Mapping[str, Any]) -> Mapping[str, Any]:
    corpus: Mapping[str, Any] = config["data"]["corpus"]
    return corpus


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _kept(runs: Sequence[RunRecord], level: float) -> Kept:
    found = pd.DataFrame([metrics_of(run) for run in runs])
    estimates = {name: _estimate(found[name], level) for name in METRICS}
    return Kept(
        way=way_of(runs[0]),
        lr=runs[0].lr,
        n_layers=runs[0].n_layers,
        n_domains=len(_order(runs[0])),
        n_runs=len(runs),
        n_orders=len({tuple(_order(run)) for run in runs}),
        n_trained_params=float(np.mean([run.n_trained_params or run.n_params for run in runs])),
        flops=float(np.mean([run.achieved_flops or run.planned_flops for run in runs])),
        **estimates,
        tasks=_tasks_of(runs, level),
    )


def _tasks_of(runs: Sequence[RunRecord], level: float) -> dict[str, dict[str, Estimate]]:
    names = [name for name in runs[0].evaluations if name.startswith(_TASK)]
    found = {}
    for name in names:
        if all(name in run.evaluations for run in runs):
            # a task of lm-evaluation-harness has other metrics, one without choices no acc
            scores = pd.DataFrame(
                [[run.evaluations[name].get(m) for m in TASK_METRICS] for run in runs],
                columns=TASK_METRICS,
                dtype=float,
            )
            found[name.removeprefix(_TASK)] = {m: _estimate(scores[m], level) for m in TASK_METRICS}
    return found


def _estimate(values: "pd.Series[float]", level: float) -> Estimate:
    """The mean, with an interval of Student's t."""
    mean = float(values.mean())
    half = t_quantile(len(values) - 1, level) * float(values.std()) / np.sqrt(len(values))
    return Estimate(mean, float(mean - half), float(mean + half))


def _shown(estimate: Estimate, signed: bool = True) -> str:
    return "" if np.isnan(estimate.value) else numbers.with_interval(*estimate, signed=signed)
