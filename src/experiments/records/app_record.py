"""Record of a run of an app that trains no language model (sweep/own_app.py). Stdlib only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.records.record import STATUSES, RunRecord

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class AppRecord:
    """One finished run of an app. values: what it returned, by name: numbers, texts, None.

    n_steps: those that it took; planned_steps: those that it was to take. own_work: planned, in
    `unit`. loss: the first of its values that is a number, which sweeps show.
    """

    run_id: str
    sweep: str
    status: str  # as of RunRecord
    app: str  # module:class
    label: str
    n_steps: int
    planned_steps: int
    own_work: float
    unit: str
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None  # the traceback, if failed
    wall_seconds: float | None = None
    started: str | None = None  # ISO 8601, UTC
    environment: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(STATUSES)}")

    @property
    def is_trunk(self) -> bool:
        return False

    @property
    def loss(self) -> float | None:
        numbers = (v for v in self.values.values() if type(v) in (int, float))
        found = next(numbers, None)
        return None if found is None else float(found)


Record = RunRecord | AppRecord
_OF_RUN = ("run_id", "sweep", "status", "label", "n_steps", "wall_seconds", "started", "error")


def app_row(record: AppRecord) -> dict[str, Any]:
    """Record as a row of a table: what is known of every run, its values, and <key>.<key> of its
    config. A name that is taken gets `values.` or `config.` before it.
    """
    row = {name: getattr(record, name) for name in _OF_RUN}
    for kind, own in (("values", record.values), ("config", record.config)):
        found = _leaves(own)
        row |= {f"{kind}.{name}" if name in row else name: value for name, value in found}
    return row


def _leaves(node: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(node, Mapping):
        below = [(f"{name}.{key}" if name else str(key), value) for key, value in node.items()]
        return [leaf for key, value in below for leaf in _leaves(value, key)]
    if type(node) is int and abs(node) >= 2**63:  # more than a table's whole numbers
        return [(name, float(node))]
    return [(name, str(node) if isinstance(node, list) else node)]
