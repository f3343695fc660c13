"""A sweep that is done, known by its manifest and records without a plan, and without torch."""

import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import experiments
from experiments.config.paths import conf_dir, sbatch_dir
from experiments.config.schedules import TRUNK
from experiments.records.files import RECORD_NAME, DamagedError, read_record
from experiments.records.finished import find_outcome, lacks_rows
from experiments.records.record import CUT_SHORT
from experiments.sweep import manifest
from experiments.sweep.objective import objective_value
from experiments.sweep.places import relocatable
from experiments.sweep.queue import Queue, read_tasks
from experiments.system import code_copy
from experiments.system.claims import is_claimed
from experiments.system.disk import followed

_OWN = f"{experiments.__name__}."


def run_again(raws: Sequence[Mapping[str, Any]], queue: Queue) -> list[float | None] | None:
    """Print and return what run_sweep does for a sweep that is done; None for one to be planned.

    Nothing is written. A run's id follows from its config and the code. So it is known of a config
    that the manifest has from the same code, to the byte, unless it names files, or classes that
    are not of this project.
    """
    folders = find_done(raws)
    if folders is None:
        return None
    sweep, results = raws[0]["sweep"], raws[0]["paths"]["results"]
    print(f"sweep {sweep}: {len(folders)} of {len(folders)} runs are done already")
    if not queue.stays:
        print(f"status: {sweep_command('status', sweep, results)}")
        return []
    return [objective_value(read_record(folder / RECORD_NAME)) for folder in folders]


def sweep_command(name: str, sweep: str, results: str) -> str:
    """Command of that name for a sweep: status says where it stands."""
    where = "" if results == "results" else f" --results {results}"
    return f"python -m experiments.{name} {sweep}{where}"


def find_done(raws: Sequence[Mapping[str, Any]]) -> list[Path] | None:
    """Folders of the runs of these configs, if each is known and needs no more work; else None."""
    if not raws or any(raw.get("dry_run") is not False or not _is_plain(raw) for raw in raws):
        return None
    places = {(str(raw["sweep"]), str(raw["paths"]["results"]), raw["retry"]) for raw in raws}
    if len(places) > 1:
        return None
    sweep, results, retry = places.pop()
    sweep_dir = followed(Path(results).expanduser()) / sweep
    try:
        found = manifest.load(sweep_dir)
    except (DamagedError, OSError):
        return None
    code = code_copy.find_name(code_copy.compute_digest(own_files()))
    known = {entry.config: run_id for run_id, entry in found.entries.items() if entry.code == code}
    if found.damaged or not known:
        return None
    ids = [known.get(json.dumps(relocatable(raw, sweep_dir))) for raw in raws]
    folders = [sweep_dir / run_id for run_id in ids if run_id is not None]
    if len(set(folders)) < len(raws) or read_tasks(sweep_dir).keys() & {*ids}:
        return None
    return folders if all(_is_over(folder, retry) for folder in folders) else None


def own_files() -> list[tuple[str, Path]]:
    """Files of this code, by their names in a copy of it."""
    package = Path(experiments.__file__).resolve().parent
    roots = (package, package.parent / "hydra_plugins", conf_dir(), sbatch_dir())
    tops = zip(code_copy.TOPS, roots, strict=True)
    return [file for top, root in tops for file in code_copy.list_files(top, root)]


def _is_over(run_dir: Path, retry: str) -> bool:
    """Whether sweep.planning.choose counts the run as finished, and its history is whole."""
    if is_claimed(run_dir):
        return False
    outcome = find_outcome(run_dir)
    if outcome is None or lacks_rows(run_dir, outcome):
        return False
    return outcome.status == "done" or (outcome.status in CUT_SHORT and retry != "all")


def _is_plain(raw: Mapping[str, Any]) -> bool:
    """Whether the run's id depends on the config and this code alone, and on no other run."""
    optim = raw.get("optim") or {}
    if raw.get("init") is not None or raw.get("parts") is not None:
        return False
    if optim.get("branch_from") is not None or optim.get("schedule") == TRUNK:
        return False
    of_run = {key: value for key, value in raw.items() if key not in ("sweep", "paths")}
    return all(
        value.startswith(_OWN) if key == "_target_" else not _may_be_file(value)
        for key, value in _texts(of_run)
    )


def _may_be_file(text: str) -> bool:
    return "/" in text or glob.has_magic(text) or os.path.lexists(text)


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of a config, each beside its key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node
