"""Slurm through its own commands: sbatch, squeue, sacct, scancel, scontrol."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from experiments.records import DamagedError
from experiments.system.disk import make_folder, write_text_atomically
from experiments.system.ownership import distrust
from experiments.system.requeue import MAX_RETRIES, SIGNAL_VARIABLE

T = TypeVar("T")
FOLDER = "slurm"  # of a sweep: lists of points, logs
JOB_PREFIX = "experiments"
_TIMEOUT = 60.0  # seconds; a busy controller is slow
_MAX_ARRAY = 1000  # tasks of one array: Slurm's usual MaxArraySize is 1001


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each point asks of Slurm; None leaves the cluster's default.

    time: as Slurm writes it, 2:00:00. mem: of a node, 64G. max_parallel: points at once.
    signal_seconds: before the time limit, a warning in which to save. extra: further options of
    sbatch, as a list of arguments. Devices and nodes are trainer.devices and trainer.num_nodes.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    gpus_per_node: int | None = None
    max_parallel: int | None = None
    signal_seconds: int = 120
    extra: tuple[str, ...] = ()
    setup: str = ""

    def options(self, *, devices: int, num_nodes: int, n_tasks: int) -> list[str]:
        """sbatch's arguments for an array of n_tasks."""
        throttle = f"%{self.max_parallel}" if self.max_parallel else ""
        given: dict[str, object] = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "cpus-per-task": self.cpus_per_task,
            "mem": self.mem,
            "gpus-per-node": self.gpus_per_node,
            "nodes": num_nodes,
            "ntasks-per-node": devices,
            "signal": f"USR1@{self.signal_seconds}",
            "array": f"0-{n_tasks - 1}{throttle}",
        }
        named = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [*named, "--requeue", "--open-mode=append", *self.extra]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An array over a list of runs, as results/<sweep>/slurm/<name>.json remembers it.

    code: the snapshot's name. devices and num_nodes: of each task. max_retries: of a task that
    ends before it can read its config (task.py). after: the task, as 12_3, of which the array
    waits for the end, however it ends.
    """

    name: str
    run_ids: tuple[str, ...]
    code: str
    devices: int
    num_nodes: int
    resources: Resources
    max_retries: int = MAX_RETRIES
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """An array's task in squeue or sacct: job as 12_3, state as PENDING, reason or node list."""

    job: str
    name: str
    index: int
    state: str
    reason: str

    @property
    def is_held(self) -> bool:
        """Whether Slurm keeps it pending until someone releases it: JobHeldUser, JobHeldAdmin,
        JobHoldMaxRequeue, (launch failed requeued held), (job requeued in held state).
        """
        held = re.search("held|hold", self.reason, re.IGNORECASE) is not None
        return (self.state == "PENDING" and held) or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT")

    @property
    def release(self) -> str:
        """The command that makes Slurm start it, if it is held."""
        return f"scontrol release {self.job}"


def is_there() -> bool:
    """Whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def check() -> None:
    """Raises ValueError if it can't."""
    if not is_there():
        raise ValueError(
            "hydra/launcher=slurm needs sbatch, which this machine does not have; submit from a "
            "login node of the cluster, or use hydra/launcher=local"
        )


def submit(sweep_dir: Path, submission: Submission) -> str:
    """Submits the array and returns its job id. Raises RuntimeError with sbatch's own words.

    What it holds is on disk before sbatch is called, under the job's name: a controller killed in
    between loses nothing, and the next finds the job in squeue by that name. So it does after a
    sbatch that gave no answer, whose job may be there.
    """
    folder = sweep_dir / FOLDER
    path = folder / f"{submission.name}.json"
    output = f"{_literal(folder.resolve())}/%A_%a.out"
    make_folder(folder)
    write_text_atomically(path, json.dumps(asdict(submission), indent=1) + "\n", mode=0o644)
    options = submission.resources.options(
        devices=submission.devices,
        num_nodes=submission.num_nodes,
        n_tasks=len(submission.run_ids),
    )
    if submission.after is not None:
        # by afterok the branches of a failed trunk would be pending without end, and say nothing
        options.append(f"--dependency=afterany:{submission.after}")
    script = sweep_dir / ".code" / submission.code / "sbatch" / "point.sh"
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={job_name(sweep_dir, submission.name)}",
        f"--output={output}",
        *options,
        str(script),
        str(sweep_dir.resolve()),
        submission.name,
    ]
    environment = {
        **os.environ,
        "EXPERIMENTS_PYTHON": sys.executable,
        "EXPERIMENTS_SETUP": submission.resources.setup,
        SIGNAL_VARIABLE: str(submission.resources.signal_seconds),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str((script.parents[1] / "src").resolve()), os.environ.get("PYTHONPATH")))
        ),
    }
    unknown = "its job may be there: give the same command again, which looks for it in squeue"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"sbatch gave no answer in {_TIMEOUT:.0f} s, and {unknown}") from None
    except OSError as error:
        path.unlink()
        raise RuntimeError(f"sbatch can't be started: {error}") from None
    if done.returncode < 0:
        raise RuntimeError(f"sbatch was killed by signal {-done.returncode}, and {unknown}")
    if done.returncode:
        path.unlink()
        raise RuntimeError(f"sbatch refused: {_last_line(done.stderr)} ({shlex.join(command)})")
    return done.stdout.strip().partition(";")[0]


def new_name() -> str:
    """A submission's name: when, to the microsecond."""
    now = time.time()
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(now)) + f"-{int(now % 1 * 1e6):06d}"


def in_arrays(runs: Sequence[T]) -> list[tuple[T, ...]]:
    """The runs in arrays no longer than Slurm takes."""
    return [tuple(runs[i : i + _MAX_ARRAY]) for i in range(0, len(runs), _MAX_ARRAY)]


def job_name(sweep_dir: Path, submission: str) -> str:
    """experiments-<sweep>-<submission>."""
    return f"{JOB_PREFIX}-{sweep_dir.name}-{submission}"


def _literal(folder: Path) -> str:
    """The folder in a name for sbatch, which replaces %u and such, unless a backslash is in it."""
    if "\\" in str(folder):
        raise ValueError(
            f"{folder}: sbatch takes no backslash in a path; set paths.results to one without"
        )
    return str(folder).replace("%", "%%")


def read_submission(sweep_dir: Path, name: str) -> Submission:
    """The submission of that name. Raises DamagedError for a file that is none."""
    path = sweep_dir / FOLDER / f"{name}.json"
    try:
        values = json.loads(path.read_bytes())
        resources = values["resources"]
        found = Submission(
            **{
                **values,
                "run_ids": tuple(values["run_ids"]),
                "resources": Resources(**{**resources, "extra": tuple(resources["extra"])}),
            }
        )
        if not all(isinstance(word, str) for word in (*found.run_ids, *found.resources.extra)):
            raise ValueError("its run_ids or extra are not text")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        remedy = "move it away; the same command submits its points again"
        raise DamagedError(path, f"not a submission: {error}", remedy) from error
    return found


def last_resources(sweep_dir: Path) -> Resources:
    """Those of the newest submission that can be read, to be asked for again.

    Its `setup` is run by a shell, so its file must be this user's own, and it is printed. Raises
    ValueError if it is not, and if no submission can be read.
    """
    again = "give the command that started the sweep again, or retry with --local"
    for name in reversed(submissions(sweep_dir)):
        path = sweep_dir / FOLDER / f"{name}.json"
        try:
            found = read_submission(sweep_dir, name).resources
        except DamagedError as error:
            _warn(str(error))
            continue
        why = distrust(path.lstat())
        if why is not None:
            raise ValueError(
                f"{path} {why}, and a shell and sbatch would run its resources as you; {again}"
            )
        if found.setup or found.extra:
            print(f"from {path}: setup={found.setup!r} extra={list(found.extra)}")
        return found
    raise ValueError(f"{sweep_dir / FOLDER} has no submission that can be read; {again}")


def submissions(sweep_dir: Path) -> list[str]:
    """The names of a sweep's submissions, oldest first."""
    return sorted(path.stem for path in (sweep_dir / FOLDER).glob("*.json"))


def queue(sweep_dir: Path) -> dict[str, Task]:
    """The sweep's runs that Slurm has queued or is running, by run id. Tasks of a submission that
    can't be read are left out: they can't read it either, and end with an error.

    Raises RuntimeError if squeue fails: what is queued must not be taken for lost.
    """
    return _by_run(sweep_dir, queued_tasks(sweep_dir))


def queued_tasks(sweep_dir: Path) -> list[Task]:
    """All tasks of the sweep's submissions that Slurm has queued or is running."""
    if not is_there() or not submissions(sweep_dir):
        return []
    names = {job_name(sweep_dir, name) for name in submissions(sweep_dir)}
    out = _call("squeue", "--noheader", "--array", "--format=%F|%K|%j|%T|%R")
    return [task for task in _tasks(out) if task.name in names]


def history(sweep_dir: Path) -> dict[str, Task]:
    """sacct's latest task of each run of the sweep, by run id; empty without accounting."""
    names = submissions(sweep_dir)
    if not names or shutil.which("sacct") is None:
        return {}
    jobs = ",".join(job_name(sweep_dir, name) for name in names)
    try:
        out = _call(
            "sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-60days",
            f"--name={jobs}", "--format=JobID,JobName,State,NodeList",
        )  # fmt: skip
    except RuntimeError:  # accounting is off
        return {}
    tasks = []
    for line in out.splitlines():
        job, name, state, nodes = line.split("|")
        found = re.fullmatch(r"\d+_(\d+)", job)
        if found:
            first = state.split()[0]  # "CANCELLED by 0"
            tasks.append(Task(job=job, name=name, index=int(found[1]), state=first, reason=nodes))
    return _by_run(sweep_dir, tasks)


def cancel(jobs: Sequence[str]) -> None:
    """Ends the jobs. Raises RuntimeError with scancel's own words."""
    if jobs:
        _call("scancel", *jobs)


def _tasks(out: str) -> list[Task]:
    tasks = []
    for line in out.splitlines():
        job, index, name, state, reason = line.split("|", 4)
        if index.isdigit():
            tasks.append(
                Task(job=f"{job}_{index}", name=name, index=int(index), state=state, reason=reason)
            )
    return tasks


def _by_run(sweep_dir: Path, tasks: Sequence[Task]) -> dict[str, Task]:
    runs: dict[str, tuple[str, ...]] = {}
    for name in submissions(sweep_dir):
        try:
            runs[job_name(sweep_dir, name)] = read_submission(sweep_dir, name).run_ids
        except FileNotFoundError:
            pass  # refused by sbatch meanwhile
        except DamagedError as error:
            _warn(str(error))
    found: dict[str, Task] = {}
    for task in tasks:  # later submissions have later names
        if task.index < len(runs.get(task.name, ())):
            run_id = runs[task.name][task.index]
            if run_id not in found or found[run_id].name <= task.name:
                found[run_id] = task
    return found


@cache
def _warn(text: str) -> None:
    """Once a process."""
    print(f"warning: {text}", file=sys.stderr)


def _call(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]} does not answer: {error}") from None
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1]
