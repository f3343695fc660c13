"""Run that another one started from, over the same tokens: what the new experts took over.

An expert keeps its number where a layer grows (init/growth), is kept or is trained on, and new ones
come last. So the mass of each can be told before and now. Of another run's experts it can't.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.finished.model import read_run, trained_model
from experiments.inspection.interface import Inspected, inspected_layers
from experiments.inspection.maps import mass_map
from experiments.inspection.opened import Opened
from experiments.inspection.reading import read_through
from experiments.inspection.results import Inspection
from experiments.inspection.tables import experts_table, map_table
from experiments.models.transformer import Transformer
from experiments.records.finished import finished_record

_STATISTICS = "before.npz"


@dataclass(frozen=True, kw_only=True, eq=False)
class Before:
    """A run that another one started from. layers: those that are a layer of that one, by name."""

    where: Path
    run_id: str
    model: Transformer
    layers: Mapping[str, Inspected]


def open_before(where: Path, run: Opened, overrides: Sequence[str]) -> Before:
    """Open the run that another one started from. overrides: of PLACES.

    Raises ValueError unless it started from the weights of this one, for another tokenizer, and
    where no layer has kept its kind and its keys of the second half.
    """
    record = finished_record(where)
    parent = run.record.init.get("parent")
    own = parent.get("run_id") if isinstance(parent, dict) else None
    own = own or (run.record.trunk or {}).get("run_id")
    if own != record.run_id:
        from_what = f"from {own}" if own else "from no run"
        raise ValueError(
            f"before={where} is {record.run_id}, and {run.record.run_id} started {from_what}: "
            "experts of the same number are others; name the run that it started from"
        )
    earlier = read_run(where, record, overrides)
    if earlier.vocabulary.sha256 != run.run.vocabulary.sha256:
        raise ValueError(f"before={where} reads tokens of another tokenizer; name another run")
    model, now = trained_model(earlier), {layer.name: layer for layer in run.layers}
    old = {layer.name: layer for layer in inspected_layers(model)}
    same = {n: layer for n, layer in old.items() if n in now and _same(now[n], layer)}
    if not same:
        here, there = (
            ", ".join(f"{name} ({layer.kind})" for name, layer in layers.items())
            for layers in (now, old)
        )
        raise ValueError(
            f"no layer of before={where} ({there}) has become one of these ({here}); leave before= "
            "out"
        )
    return Before(where=where, run_id=record.run_id, model=model, layers=same)


def with_before(found: Inspection, run: Opened, earlier: Before, folder: Path) -> Inspection:
    """Add the tables `before` and `before_map`, and what is said of each layer.

    n_experts: before. share_new and used_new: of the experts from that number on, their share of
    the mass, and which share of them has any. moved: of all shares, new ones included; moved_old:
    of those of the old ones among themselves.
    """
    reading = replace(run.reading, identity={**run.reading.identity, "run_id": earlier.run_id})
    layers = [earlier.layers[layer.name] for layer in run.layers if layer.name in earlier.layers]
    read = read_through(earlier.model, layers, reading, folder, _STATISTICS)
    texts = [text.name for text in run.texts]
    tables: dict[str, list[pd.DataFrame]] = {"before": [], "before_map": []}
    about: dict[str, Any] = {key: dict(value) for key, value in found.about.items()}
    experts = found.tables["experts"]
    for layer in run.layers:
        if (name := layer.name) not in read:
            continue
        mass = read[name].mass
        n_old, n_now = mass.shape[1], layer.n_experts
        padded = np.pad(mass, ((0, 0), (0, n_now - n_old)))
        cells = mass_map(padded, layer.layer.grid())
        moments = read[name].documents.moments()
        tables["before"].append(experts_table(read[name], moments, texts))
        tables["before_map"].append(map_table(cells, texts))
        for each in tables.values():
            each[-1].insert(0, "layer", name)
        now = np.zeros(n_now)
        rows = experts[experts["layer"] == name]
        now[rows["expert"]] = rows["mass"]
        then, new = padded.sum(0), now[n_old:]
        about[name]["before"] = {
            "run_id": earlier.run_id,
            "n_experts": n_old,
            "share_new": float(new.sum() / now.sum()),
            "used_new": float((new > 0).mean()) if len(new) else 0.0,
            "moved": _distance(then, now),
            "moved_old": _distance(then[:n_old], now[:n_old]) if now[:n_old].any() else 1.0,
        }
    joined = {key: pd.concat(own, ignore_index=True) for key, own in tables.items()}
    where = str(earlier.where.absolute())
    return replace(found, about=about, tables={**found.tables, **joined}, before=where)


def _same(now: Inspected, before: Inspected) -> bool:
    """Whether experts of one number are the same."""
    grids = [layer.layer.grid() for layer in (now, before)]
    columns = {None if grid is None else grid[1] for grid in grids}
    return now.kind == before.kind and before.n_experts <= now.n_experts and len(columns) == 1


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of the differences of all shares (total variation)."""
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)
