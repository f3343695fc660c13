"""Tasks of a record, as a table: a line a metric."""

from collections.abc import Mapping
from typing import Any

from experiments.system.text_table import aligned
from experiments.tasks.local import KEY

_STDERR = "_stderr"
_NOT_METRICS = {"n_cut", "seq_len", "rule", "n_items", "n_choice_items", "n_bytes", "n_shot"}


def tasks_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """Empty if the record has no task."""
    rows = [("task", "metric", "value", "stderr", "items")]
    for key, result in evaluations.items():
        if not key.startswith(KEY):
            continue
        for metric, value in result.items():
            if metric in _NOT_METRICS or metric.endswith(_STDERR) or not _is_number(value):
                continue
            stderr = result.get(metric + _STDERR)
            n = result.get("n_choice_items") if metric.startswith("acc") else None
            rows.append(
                (
                    key.removeprefix(KEY),
                    metric,
                    f"{value:.4f}",
                    f"{stderr:.4f}" if _is_number(stderr) else "",
                    str(n or result.get("n_items") or ""),
                )
            )
    return "\n".join(aligned(rows)) if len(rows) > 1 else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
