"""A sweep that is done, known by its manifest and records without a plan, and without torch."""

import json
from collections.abc import Sequence
from pathlib import Path

import experiments
from experiments.config.paths import conf_dir, sbatch_dir
from experiments.records.files import RECORD_NAME, DamagedError, read_any_record
from experiments.records.finished import find_outcome, lacks_rows
from experiments.records.record import CUT_SHORT
from experiments.sweep import manifest
from experiments.sweep.app import FIRST, FOLDER, Raw, find_app
from experiments.sweep.objective import objective_value
from experiments.sweep.queue import Queue, read_tasks
from experiments.system import code_copy
from experiments.system.claims import is_claimed
from experiments.system.disk import followed


def run_again(raws: Sequence[Raw], queue: Queue, place: str = FIRST) -> list[float | None] | None:
    """Print and return what run_sweep does for a sweep that is done; None for one to be planned.

    place: the app's. Nothing is written. A run's id follows from its config and the code. So it is
    known of a config that the manifest has from the same code, to the byte, where the app says that
    nothing else is in it (App.is_plain).
    """
    folders = find_done(raws, place)
    if folders is None:
        return None
    sweep, results = raws[0]["sweep"], raws[0]["paths"]["results"]
    print(f"sweep {sweep}: {len(folders)} of {len(folders)} runs are done already")
    if not queue.stays:
        print(f"status: {sweep_command('status', sweep, results)}")
        return []
    return [objective_value(read_any_record(folder / RECORD_NAME)) for folder in folders]


def sweep_command(name: str, sweep: str, results: str) -> str:
    """Command of that name for a sweep: status says where it stands."""
    where = "" if results == "results" else f" --results {results}"
    return f"python -m experiments.{name} {sweep}{where}"


def find_done(raws: Sequence[Raw], place: str = FIRST) -> list[Path] | None:
    """Folders of the runs of these configs, if each is known and needs no more work; else None."""
    app = find_app(place)
    if not raws or any(raw.get("dry_run") is not False or not app.is_plain(raw) for raw in raws):
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
    code = code_copy.find_name(code_copy.compute_digest(own_files(place)))
    known = {entry.config: run_id for run_id, entry in found.entries.items() if entry.code == code}
    if found.damaged or not known:
        return None
    ids = [known.get(json.dumps(app.relocatable(raw, sweep_dir))) for raw in raws]
    folders = [sweep_dir / run_id for run_id in ids if run_id is not None]
    if len(set(folders)) < len(raws) or read_tasks(sweep_dir).keys() & {*ids}:
        return None
    return folders if all(_is_over(folder, retry) for folder in folders) else None


def own_files(place: str = FIRST) -> list[tuple[str, Path]]:
    """Files of this code and of that app, by their names in a copy of it."""
    package = Path(experiments.__file__).resolve().parent
    roots = (package, package.parent / "hydra_plugins", conf_dir(), sbatch_dir())
    tops = zip(code_copy.TOPS, roots, strict=True)
    found = [file for top, root in tops for file in code_copy.list_files(top, root)]
    return found + [(f"{FOLDER}/{name}", path) for name, path in find_app(place).files()]


def _is_over(run_dir: Path, retry: str) -> bool:
    """Whether sweep.planning.choose counts the run as finished, and its history is whole."""
    if is_claimed(run_dir):
        return False
    outcome = find_outcome(run_dir)
    if outcome is None or lacks_rows(run_dir, outcome):
        return False
    return outcome.status == "done" or (outcome.status in CUT_SHORT and retry != "all")
