"""Run that another one started from, over the same tokens: what the new experts took over.

An expert keeps its number where a layer grows (init/growth), is kept or is trained on, and new ones
come last. So the mass of each can be told before and now. Of another run's experts it can't.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.finished.model import read_finished
from experiments.inspection.interface import Inspected, inspected_layers
from experiments.inspection.maps import mass_map
from experiments.inspection.opened import Opened
from experiments.inspection.reading import read_through
from experiments.inspection.results import Inspection
from experiments.inspection.tables import experts_table, map_table
from experiments.records.record import RunRecord

_STATISTICS = "before.npz"


def check_before(record: RunRecord, before: RunRecord, where: Path) -> None:
    """Raises ValueError unless a run started from the weights of the other."""
    parent = record.init.get("parent")
    own = parent.get("run_id") if isinstance(parent, dict) else None
    own = own or (record.trunk or {}).get("run_id")
    if own != before.run_id:
        from_what = f"from {own}" if own else "from no run"
        raise ValueError(
            f"before={where} is {before.run_id}, and {record.run_id} started {from_what}: experts "
            "of the same number are others; name the run that it started from"
        )


def with_before(
    found: Inspection, run: Opened, where: Path, overrides: Sequence[str], folder: Path
) -> Inspection:
    """Inspection with the tables `before` and `before_map`, and what is said of each layer.

    Raises ValueError for another tokenizer, and where no layer has kept its kind and its keys of
    the second half.
    """
    record, vocabulary, model = read_finished(where, overrides)
    if vocabulary.sha256 != run.vocabulary.sha256:
        raise ValueError(f"before={where} reads tokens of another tokenizer; name another run")
    own = {layer.name: layer for layer in run.layers}
    old = {layer.name: layer for layer in inspected_layers(model)}
    names = [name for name in own if name in old and _same(own[name], old[name])]
    if not names:
        here = ", ".join(f"{name} ({layer.kind})" for name, layer in own.items())
        there = ", ".join(f"{name} ({layer.kind})" for name, layer in old.items())
        raise ValueError(
            f"no layer of before={where} ({there}) has become one of these ({here}); leave before= "
            "out"
        )
    reading = replace(run.reading, identity={**run.identity, "run_id": record.run_id})
    layers = [old[name] for name in names]
    read = read_through(model, layers, reading, folder, _STATISTICS)
    texts = [text.name for text in run.texts]
    tables: dict[str, list[pd.DataFrame]] = {"before": [], "before_map": []}
    about: dict[str, Any] = {key: dict(value) for key, value in found.about.items()}
    experts = found.tables["experts"]
    for name in names:
        mass = read[name].mass
        n_old, n_now = mass.shape[1], own[name].n_experts
        padded = np.pad(mass, ((0, 0), (0, n_now - n_old)))
        cells = mass_map(padded, own[name].layer.grid())
        moments = read[name].documents.moments()
        tables["before"].append(experts_table(read[name], moments, texts).assign(layer=name))
        tables["before_map"].append(map_table(cells, texts).assign(layer=name))
        now = np.zeros(n_now)
        rows = experts[experts["layer"] == name]
        now[rows["expert"]] = rows["mass"]
        about[name]["before"] = {"run_id": record.run_id, **_moved(padded.sum(0), now, n_old)}
    joined = {
        key: pd.concat(own_tables, ignore_index=True).pipe(_layer_first)
        for key, own_tables in tables.items()
    }
    return replace(
        found, about=about, tables={**found.tables, **joined}, before=str(where.absolute())
    )


def _layer_first(table: pd.DataFrame) -> pd.DataFrame:
    return table[["layer", *(name for name in table if name != "layer")]]


def _same(now: Inspected, before: Inspected) -> bool:
    """Whether experts of one number are the same."""
    grids = [layer.layer.grid() for layer in (now, before)]
    columns = {None if grid is None else grid[1] for grid in grids}
    return now.kind == before.kind and before.n_experts <= now.n_experts and len(columns) == 1


def _moved(before: np.ndarray, now: np.ndarray, n_old: int) -> Mapping[str, Any]:
    """n_experts: before. share_new and used_new: of the experts from that number on, their share of
    the mass, and which share of them has any. moved: half the sum of the differences of all shares
    (total variation), new ones included; moved_old: that of the old ones among themselves.
    """
    new = now[n_old:]

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)

    return {
        "n_experts": n_old,
        "share_new": float(new.sum() / now.sum()),
        "used_new": float((new > 0).mean()) if len(new) else 0.0,
        "moved": distance(before, now),
        "moved_old": distance(before[:n_old], now[:n_old]) if now[:n_old].any() else 1.0,
    }
