"""Runs that no line of the manifest tells of: found by what their folders hold."""

import json
import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from experiments.records.app_record import AppRecord
from experiments.records.files import RECORD_NAME, read_any_record
from experiments.sweep.manifest import Entry
from experiments.system.plain_text import printable
from experiments.system.regular_files import read_regular_text

CONFIG_NAME = "config.yaml"
_TOP_LEVEL = re.compile(r"^(model_name|n_experts|size|budget|seed): *(\S+) *$", re.MULTILINE)


def list_folders(folder: Path) -> set[str]:
    """Names of the folders in a folder that may be runs or sweeps; none if it is not there."""
    try:
        with os.scandir(folder) as found:
            return {one.name for one in found if not one.name.startswith(".") and one.is_dir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def lost_entries(sweep_dir: Path, names: Collection[str]) -> list[Entry]:
    """An entry for each of these folders that is a run's, in the order of their names.

    Their plan is that of their records. A run with config.yaml alone has its budget for planned
    FLOPs, and 0 for its steps, which are not known.
    """
    found = (_entry(sweep_dir / name) for name in sorted(names))
    return [entry for entry in found if entry is not None]


def _entry(run_dir: Path) -> Entry | None:
    if (run_dir / RECORD_NAME).is_file():
        try:
            record = read_any_record(run_dir / RECORD_NAME)
        except ValueError:  # the run's state will say so
            return _from_config(run_dir) or _lost(run_dir, "unknown", 0.0)
        if isinstance(record, AppRecord):
            found = _lost(
                run_dir, record.label, record.own_work, record.planned_steps, record.config
            )
            return replace(found, unit=record.unit)
        budget = "trunk" if record.is_trunk else f"budget={record.budget:g}"
        label = _label(record.model, record.n_experts, record.n_layers, budget, record.seed)
        found = _lost(run_dir, label, record.planned_flops, record.n_steps, record.config)
        if not record.trunk:
            return found
        own, first = record.trunk.get("own_flops", 0.0), record.trunk.get("n_steps", 0)
        return replace(found, planned_flops=own, trunk=record.trunk.get("run_id"), first_step=first)
    return _from_config(run_dir)


def _from_config(run_dir: Path) -> Entry | None:
    try:
        text = read_regular_text(run_dir / CONFIG_NAME, "replace")
    except OSError:
        return None
    found = dict(_TOP_LEVEL.findall(text))
    try:
        budget = float(found.get("budget", ""))
    except ValueError:
        budget = 0.0
    model, size, seed = (found.get(name, "?") for name in ("model_name", "size", "seed"))
    n_experts = found.get("n_experts", "null")
    experts = None if n_experts == "null" else n_experts
    label = _label(model, experts, size, f"budget={budget:g}", seed)
    return _lost(run_dir, label, budget)


def _label(model: str, n_experts: object, size: object, budget: str, seed: object) -> str:
    """As Point.name has it."""
    experts = "" if n_experts is None else f" N={n_experts}"
    return f"{model}{experts} size={size} {budget} seed={seed}"


def _lost(
    run_dir: Path,
    label: str,
    planned_flops: float,
    n_steps: int = 0,
    config: dict[str, object] | None = None,
) -> Entry:
    return Entry(
        run_id=run_dir.name,
        label=printable(label),
        planned_flops=planned_flops,
        n_steps=n_steps,
        code=None,
        config=json.dumps(config or {}),
    )
