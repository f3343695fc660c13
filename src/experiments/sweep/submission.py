"""Jobs given to a queue that outlives the command: results/<sweep>/<queue>/<name>.json, a list
of runs and the resources that were asked for. Standard library only.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from experiments.records.files import DamagedError
from experiments.sweep.queue import Task
from experiments.system.disk import make_folder, write_text_atomically
from experiments.system.json_files import read_json
from experiments.system.plain_text import printable
from experiments.system.requeue import MAX_RETRIES
from experiments.system.signatures import is_signed, key_path, signature


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A list of runs that one job has as its tasks, numbered from 0.

    code: the snapshot's name. devices and num_nodes: of each task. resources: the queue's settings.
    max_retries: of a task that ends before it can read its config (task.py). after: the task, as
    12_3, of which the job waits for the end, however it ends. needs_gpu: whether a task without a
    GPU is to end at once. signature: that of all the rest, by the user who wrote it.
    """

    name: str
    run_ids: tuple[str, ...]
    code: str
    devices: int
    num_nodes: int
    resources: Mapping[str, Any]
    max_retries: int = MAX_RETRIES
    after: str | None = None
    needs_gpu: bool = False
    signature: str | None = None

    def content(self) -> bytes:
        """Bytes that are signed."""
        return json.dumps({**asdict(self), "signature": None}, sort_keys=True).encode()


def new_name() -> str:
    """A submission's name: when, to the microsecond."""
    now = time.time()
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{int(now % 1 * 1e6):06d}"


def write(folder: Path, submission: Submission) -> Path:
    """Sees the file to the disk, before the queue is asked: so a command that is killed in between
    loses nothing.
    """
    make_folder(folder)
    path = folder / f"{submission.name}.json"
    signed = replace(submission, signature=signature(submission.content()))
    write_text_atomically(path, json.dumps(asdict(signed), indent=1) + "\n", mode=0o644)
    return path


def read(path: Path, check: Callable[[Mapping[str, Any]], object] = dict) -> Submission:
    """Submission of that file, whose resources are such as `check` takes. Raises DamagedError
    for a file that is none.
    """
    try:
        values = read_json(path)
        found = Submission(**{**values, "run_ids": tuple(values["run_ids"])})
        if not all(isinstance(run_id, str) for run_id in found.run_ids):
            raise ValueError("its run_ids are not text")
        check(found.resources)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        remedy = "move it away; the same command submits its points again"
        raise DamagedError(path, f"not a submission: {error}", remedy) from error
    return found


def paths(folder: Path) -> list[Path]:
    """Files of a queue's submissions, oldest first."""
    return sorted(folder.glob("*.json"))


def run_ids(folder: Path) -> set[str]:
    """All that its submissions list, but for those that can't be read."""
    found = set[str]()
    for path in paths(folder):
        with suppress(FileNotFoundError, DamagedError):
            found.update(read(path).run_ids)
    return found


def last(
    folder: Path, check: Callable[[Mapping[str, Any]], object], shell: Sequence[str], trusted: bool
) -> Submission | None:
    """Newest submission that can be read; None without any. check: as of read. shell: the
    resources that a shell or the queue runs, which are printed if there are some.

    Raises ValueError if no submission can be read, and for one with such resources that this user's
    commands have not written, unless it is trusted.
    """
    again = "give the command that started the sweep again, or retry with --local"
    for path in reversed(found := paths(folder)):
        try:
            submission = read(path, check)
        except DamagedError as error:
            _warn(str(error))
            continue
        asked = {k: v for k in shell if (v := submission.resources.get(k))}
        said = " ".join(f"{key}={value!r}" for key, value in asked.items())
        if asked and not trusted and not is_signed(submission.content(), submission.signature):
            raise ValueError(
                f"{path} asks a shell and the queue to run {said} as you, and is not signed by you "
                f"(key: {key_path()}), so that somebody else may have written it; read it, and add "
                "--trust if you want all of that run, or --local to run on this machine without"
            )
        if asked:
            print(f"from {path}: {printable(said)}")
        return submission
    if found:
        raise ValueError(f"{folder} has no submission that can be read; {again}")
    return None


def by_run(folder: Path, tasks: Iterable[tuple[str, int, Task]]) -> dict[str, Task]:
    """Task of each run, the newest submission's; tasks: a submission's name, the place in its
    list, and the task. Those of a submission that can't be read are left out: they can't read it
    either, and end with an error.
    """
    runs: dict[str, tuple[str, ...]] = {}
    for path in paths(folder):
        try:
            runs[path.stem] = read(path).run_ids
        except FileNotFoundError:
            pass  # refused by the queue meanwhile
        except DamagedError as error:
            _warn(str(error))
    found: dict[str, tuple[str, Task]] = {}
    for name, index, task in tasks:
        if index < len(runs.get(name, ())):
            run_id = runs[name][index]
            if run_id not in found or found[run_id][0] <= name:
                found[run_id] = name, task
    return {run_id: task for run_id, (_, task) in found.items()}


@cache
def _warn(text: str) -> None:
    """Once a process."""
    print(f"warning: {text}", file=sys.stderr)
