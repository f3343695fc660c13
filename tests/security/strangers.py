"""Folders of strangers: what looks like a run or a sweep of ours, and names code of its own."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.records.files import RECORD_NAME, write_record
from experiments.records.record import RunRecord
from experiments.sweep.lost import CONFIG_NAME
from experiments.sweep.manifest import MANIFEST_NAME

RUN_ID = "0123456789ab"
Change = Callable[[dict[str, Any]], None]


def with_target(place: Sequence[Any], target: str) -> Change:
    """Puts a name under the `_target_` of a config's node: place ("data", "corpus")."""

    def change(raw: dict[str, Any]) -> None:
        node = raw
        for key in place:
            node = node[key]
        node["_target_"] = target

    return change


def record_of(raw: Mapping[str, Any], **values: Any) -> RunRecord:
    """A record as a finished run with that config has it; no number of it is used."""
    return RunRecord(
        **{
            "run_id": RUN_ID, "sweep": "stranger", "status": "done", "model": "dense", "seed": 0,
            "budget": 2e9, "n_layers": 1, "d_model": 16, "n_experts": None, "n_params": 1,
            "n_active_params": 1, "n_non_embedding_params": 1, "flops_per_token": 1.0,
            "flops_shares": {"head": 1.0}, "planned_flops": 2e9, "n_steps": 1, "batch_tokens": 1,
            "n_tokens": 1, "lr": 0.1, "causal_eval": True, "config": dict(raw), **values,
        }
    )  # fmt: skip


def plant_run(sweep_dir: Path, raw: Mapping[str, Any]) -> Path:
    """A run's folder, with a record whose checksum is right. The checkpoint is empty."""
    run_dir = sweep_dir / RUN_ID
    write_record(run_dir, record_of(raw))
    (run_dir / "last.ckpt").touch()
    return run_dir


def plant_manifest(
    sweep_dir: Path, raw: Mapping[str, Any], run_id: str = RUN_ID, label: str = "dense"
) -> None:
    """A line more of a manifest, whose checksum is right."""
    head = {"run_id": run_id, "label": label, "planned_flops": 2e9, "n_steps": 1, "code": None}
    text = json.dumps(head)[:-1] + ', "raw": ' + json.dumps(raw)
    line = f'{text}, "checksum": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with (sweep_dir / MANIFEST_NAME).open("a") as file:
        file.write(line)


def plant_config(sweep_dir: Path, raw: Mapping[str, Any]) -> None:
    """A run that no line of the manifest names, with config.yaml alone."""
    run_dir = sweep_dir / RUN_ID
    run_dir.mkdir(parents=True)
    (run_dir / CONFIG_NAME).write_text(yaml.safe_dump(dict(raw)))


OWN = (  # what a command might take for its own, and more
    *("chapter/1/text", "figures/a.png", "tables/2-ab/0-of-1.ckpt", "src/__pycache__/x.pyc"),
    *("history.csv", "events.jsonl", "paper.tex", "step-2.ckpt", "last.ckpt", "card.json"),
    *("tables.partial", "last.partial", "inspect.html", "records.csv", ".claim"),
    *("2-0123456789ab", f"{os.uname().nodename}-1"),
)


def own_folder(folder: Path) -> Path:
    """A folder of the reader's, whose loss state_of sees."""
    for name in OWN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"precious: {name}\n")
    return folder


def state_of(folder: Path) -> dict[str, tuple[int, Any]]:
    """Of each name below a folder: when it was changed, and its bytes, or the names in it."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else sorted(map(str, path.iterdir())),
        )
        for path in (folder, *folder.rglob("*"))
    }


def plant_link(link: Path, own: Path, *, absolute: bool = False) -> None:
    """A link in a sweep, to the reader's folder, or to a file of it where a file has that name. A
    run or a sweep that is there is moved into the folder first.
    """
    if (link / RECORD_NAME).exists() or (link / MANIFEST_NAME).exists():
        link.rename(own / "moved")
        own = own / "moved"
    elif link.suffix or link.name == ".claim":
        own = own / "history.csv"
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(own if absolute else os.path.relpath(own, link.parent))
