"""One run that learnt domains one after another: what it learnt and forgot, and in which way.

L[i][j] is the loss on domain j after stage i, in bits per byte; stage 0 is the start, and domain j
is learnt in stage j of T. Means over domains (Lopez-Paz 2017, arXiv:1706.08840; Chaudhry 2018,
arXiv:1801.10112, for losses instead of accuracies):

learning          L[j-1][j] - L[j][j]
forgetting        L[T][j] - min over i <= T of L[i][j], of the domains before the last
backward          L[j][j] - L[T][j], of the domains before the last; below 0 is forgetting
forward           L[0][j] - L[j-1][j], of the domains after the first
base              L[T] - L[0] on the base corpus

A stage of all domains together ("joint") learns L[0][j] - L[1][j] of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.records.record import RunRecord

METRICS = ("learning", "forgetting", "backward", "forward", "base")
_BASE = "base"


def read_metrics(record: RunRecord) -> dict[str, float]:
    """METRICS of one run; nan where there is no domain that one is of."""
    rows = [
        {name: _bits(score["bits_per_byte"], name) for name, score in row["scores"].items()}
        for row in record.stages
    ]
    order, last = read_order(record), rows[-1]
    base = last[_BASE] - rows[0][_BASE]
    if len(rows) not in (2, len(order) + 1):
        raise ValueError(f"{len(rows) - 1} stages are no order of {len(order)}, nor one of all")
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


def unreadable(record: RunRecord) -> str | None:
    """Why a run's way, order or scores can't be read; None if they can.

    Its config and its stages are as their writer left them, and may be another's.
    """
    try:
        find_way(record)
        found = read_metrics(record)
        if not np.isfinite([found["learning"], found["base"]]).all():
            raise ValueError("a score is not finite")
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return (
            f"run {record.run_id}: what it learnt can't be read from its stages and its "
            f"config.data.corpus ({type(error).__name__}: {error}); move its folder away"
        )
    return None


def find_way(record: RunRecord) -> str:
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
        "top_rows": "top {:d} rows", "replay": "replay {:g}", "distil": "distillation {:g}",
        "l2": "L2 {:g}",
    }  # fmt: skip
    words += [text.format(continual[n]) for n, text in said.items() if continual.get(n)]
    if continual.get("row_score", "tf_idf") != "tf_idf":
        words.append(f"rows by {continual['row_score']}")
    if _corpus(config).get("joint"):
        words.append("joint")
    elif len(read_order(record)) == 1:
        words.append("one domain")
    return ", ".join(words)


def read_order(record: RunRecord) -> list[str]:
    order: list[str] = list(_corpus(record.config)["order"])
    if not order or len(set(order)) < len(order):
        raise ValueError(f"its order must name domains, each once, and is {order}")
    return order


def _corpus(config: Mapping[str, Any]) -> Mapping[str, Any]:
    corpus: Mapping[str, Any] = config["data"]["corpus"]
    return corpus


def _bits(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"bits_per_byte of {name} is {value!r}, and no number of 0 or more")
    return float(value)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
