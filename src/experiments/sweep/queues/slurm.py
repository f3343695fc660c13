"""Slurm through its own commands: sbatch, squeue, sacct, scancel, scontrol.

A submission is a job array; its task runs sbatch/point.sh and, by that, sweep/task.py.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from experiments.config.constraints import AtLeast1, Positive, Processes
from experiments.config.reading import read
from experiments.sweep import submission
from experiments.sweep.point import Point
from experiments.sweep.queue import Outcome, Queue, Task
from experiments.sweep.queues._slurm_resources import (
    SIGNAL_SECONDS,
    Gpus,
    Name,
    Names,
    NodeMemory,
    Seconds,
    TimeLimit,
    check_extra,
    check_resources,
    describe_signal,
    needs_gpu,
    notes,
    signal_seconds,
)
from experiments.sweep.queues._slurm_tasks import (
    FOLDER,
    TIMEOUT,
    TITLE,
    by_run,
    call,
    check_answers,
    history,
    is_there,
    job_name,
    last_line,
    queued,
)
from experiments.sweep.submission import Submission
from experiments.sweep.waiting_for import alike
from experiments.system import started
from experiments.system.disk import remove

_SIGNAL_VARIABLE = "EXPERIMENTS_SIGNAL_SECONDS"  # of a job's environment, if another was asked for
_TIME_LIMIT_SIGNAL = "SIGUSR1"
_SLACK = 60.0  # seconds: how much earlier Slurm may send it
_MAX_ARRAY = 1000  # tasks of one array: Slurm's usual MaxArraySize is 1001


@dataclass(frozen=True, kw_only=True)
class Slurm(Queue):
    """Resources that each point asks of Slurm; None leaves the cluster's default.

    time: as Slurm writes it, 2:00:00. mem: of a node, 64G. gpus_per_node: 0 on a cluster whose
    GPUs need not be asked for. max_parallel: points at once. signal_seconds: before the time limit,
    a warning in which to save; None for what the largest checkpoint takes. extra: further options
    of sbatch, as a list of arguments. setup: shell before the run. watch: of a search, seconds
    between two looks. Devices and nodes are trainer.devices and trainer.num_nodes.
    """

    title: ClassVar[str] = TITLE
    stays: ClassVar[bool] = False
    starts_ranks: ClassVar[bool] = True

    partition: Names | None = None
    account: Name | None = None
    qos: Name | None = None
    time: TimeLimit | None = None
    cpus_per_task: Processes | None = None
    mem: NodeMemory | None = None
    gpus_per_node: Gpus | None = None
    max_parallel: AtLeast1 | None = None
    signal_seconds: Seconds | None = None
    extra: tuple[str, ...] = ()
    setup: str = ""
    watch: Positive | None = None

    def __post_init__(self) -> None:
        check_extra(self.extra)

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
            "gpus-per-node": self.gpus_per_node or None,
            "nodes": num_nodes,
            "ntasks-per-node": devices,
            "signal": f"USR1@{self.signal_seconds or SIGNAL_SECONDS}",
            "array": f"0-{n_tasks - 1}{throttle}",
        }
        named = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [*named, "--requeue", "--open-mode=append", *self.extra]

    def check(self, points: Sequence[Point], n: int) -> None:
        if not is_there():
            raise ValueError(
                "hydra/launcher=slurm needs sbatch, which this machine does not have; submit from "
                "a login node of the cluster, or use hydra/launcher=local"
            )
        check_resources(points, self)
        if points:
            check_answers()

    def plan(self, points: Sequence[Point]) -> list[str]:
        check_resources(points, self)
        lines = []
        for (devices, num_nodes), group in _of_one_shape(points).items():
            queue = self.completed(group)
            for part in _arrays(group):
                options = queue.options(devices=devices, num_nodes=num_nodes, n_tasks=len(part))
                lines.append(f"Slurm: sbatch {shlex.join(options)}")
        lines.append(describe_signal(points, self.warning(points)))
        return lines + notes(points, self)

    def warning(self, points: Sequence[Point]) -> int:
        """Seconds before the time limit in which these points save."""
        return self.signal_seconds or signal_seconds(points)

    def completed(self, points: Sequence[Point]) -> Self:
        """With the seconds of warning of these points."""
        return replace(self, signal_seconds=self.warning(points))

    @contextmanager
    def session(self, what: str, planned: Sequence[Point]) -> Iterator["_Session"]:
        yield _Session(self)

    @classmethod
    def tasks(cls, sweep_dir: Path) -> dict[str, Task]:
        return by_run(sweep_dir, {row: row.task(sweep_dir) for row in queued(sweep_dir)})

    @classmethod
    def ended(cls, sweep_dir: Path) -> dict[str, Task]:
        """By sacct; nothing without accounting."""
        return by_run(sweep_dir, {row: row.past(sweep_dir) for row in history(sweep_dir)})

    @classmethod
    def cancel(cls, sweep_dir: Path) -> int:
        jobs = [row.job for row in queued(sweep_dir)]
        if jobs:
            call("scancel", *jobs)
        return len(jobs)

    @classmethod
    def last(cls, sweep_dir: Path, *, trusted: bool = False) -> tuple[str, Self] | None:
        folder, shell = sweep_dir / FOLDER, ("setup", "extra")
        found = submission.last(folder, lambda given: read(cls, given), shell, trusted)
        return None if found is None else (found.name, read(cls, found.resources))

    @staticmethod
    def job() -> "_Job | None":
        name = started.slurm_job()
        return None if name is None else _Job(name=name)


def _of_one_shape(points: Sequence[Point]) -> dict[tuple[int, int], list[Point]]:
    """Points of each number of devices and nodes."""
    groups: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.needs.devices, point.needs.num_nodes), []).append(point)
    return groups


def _arrays(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Points in parts that are no longer than Slurm takes."""
    for i in range(0, len(points), _MAX_ARRAY):
        yield points[i : i + _MAX_ARRAY]


class _Session:
    """Submits, and looks every `watch` seconds what has ended."""

    def __init__(self, queue: Slurm) -> None:
        self.queue, self.given = queue, dict[str, Path]()

    def room(self, n_running: int) -> int | None:
        n = self.queue.max_parallel
        return None if n is None else n - n_running

    def submit(self, points: Sequence[Point], code: Path, tasks: Mapping[str, Task]) -> None:
        """An array for the points of each number of devices, and no longer than Slurm takes."""
        names = {run_id: task.job for run_id, task in tasks.items() if task.queue == TITLE}
        jobs = []
        for trunk, group in alike(points, names):
            for part in _arrays(group):
                job = submit(part, code.name, self.queue, after=names.get(trunk or ""))
                names |= {point.run_id: f"{job}_{k}" for k, point in enumerate(part)}
                jobs.append(job)
        self.given |= {point.run_id: point.run_dir for point in points}
        for note in notes(points, self.queue):
            print(note)
        what = f"sweep {points[0].handling.sweep}: {len(points)} runs submitted"
        print(f"{what}, Slurm job {', '.join(jobs)}", flush=True)

    def outcomes(self, tasks: Mapping[str, Task]) -> dict[str, Outcome]:
        """Those that Slurm does not have any more and that left no record, or that of a failure."""
        from experiments.sweep.planning import read_status

        fates: dict[str | None, Outcome] = {
            None: Outcome(fate="killed", why="its Slurm task ended without a record"),
            "failed": Outcome(fate="failed", why="failed"),
        }
        gone = {run_id: path for run_id, path in self.given.items() if run_id not in tasks}
        return {
            run_id: fates[status]
            for run_id, run_dir in gone.items()
            if (status := read_status(run_dir)) in fates
        }

    def wait(self) -> bool:
        if self.queue.watch is not None:
            time.sleep(self.queue.watch)
        return self.queue.watch is not None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """name: of the array's task, as 12_3: SLURM_JOB_ID of one of them is the array's number, which
    names them all.
    """

    name: str

    def n_restarts(self) -> int:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    def at_time_limit(self, signal: str | None) -> bool:
        """Whether it is the signal that was asked for, at its time.

        Slurm ends a job by TERM: scancel, or preemption. With send_user_signal a preemption sends
        USR1 too, so that the clock is asked as well.
        """
        lead = float(os.environ.get(_SIGNAL_VARIABLE) or SIGNAL_SECONDS)
        end = os.environ.get("SLURM_JOB_END_TIME")
        is_near = end is not None and float(end) - time.time() < lead + _SLACK
        return signal == _TIME_LIMIT_SIGNAL and is_near and started.rank() == 0

    def requeue(self) -> bool:
        try:
            call("scontrol", "requeue", self.name)
        except RuntimeError as error:
            print(f"scontrol requeue {self.name}: {error}", file=sys.stderr)
            return False
        return True


def submit(points: Sequence[Point], code: str, queue: Slurm, after: str | None = None) -> str:
    """Submits an array of points of one number of devices, and returns its job id. Raises
    RuntimeError with sbatch's own words.

    What it holds is on disk before sbatch is called, under the job's name: a controller killed in
    between loses nothing, and the next finds the job in squeue by that name. So it does after a
    sbatch that gave no answer, whose job may be there.
    """
    settings = asdict(queue)
    settings.pop("watch")
    given = Submission(
        name=submission.new_name(),
        run_ids=tuple(point.run_id for point in points),
        code=code,
        devices=points[0].needs.devices,
        num_nodes=points[0].needs.num_nodes,
        resources=settings,
        max_retries=max(point.handling.max_retries for point in points),
        after=after,
        needs_gpu=any(needs_gpu(point, queue) for point in points),
    )
    return give(points[0].sweep_dir, given, queue.completed(points))


def give(sweep_dir: Path, given: Submission, queue: Slurm) -> str:
    """Writes the submission and calls sbatch; as submit."""
    folder = sweep_dir / FOLDER
    output = f"{_literal(folder.resolve())}/%A_%a.out"
    path = submission.write(folder, given)
    options = queue.options(
        devices=given.devices, num_nodes=given.num_nodes, n_tasks=len(given.run_ids)
    )
    if given.after is not None:
        # by afterok the branches of a failed trunk would be pending without end, and say nothing
        options.append(f"--dependency=afterany:{given.after}")
    script = sweep_dir / ".code" / given.code / "sbatch" / "point.sh"
    command = [
        "sbatch",
        "--parsable",
        f"--job-name={job_name(sweep_dir, given.name)}",
        f"--output={output}",
        *options,
        str(script),
        str(sweep_dir.resolve()),
        given.name,
    ]
    environment = {
        **os.environ,
        "EXPERIMENTS_PYTHON": sys.executable,
        "EXPERIMENTS_SETUP": queue.setup,
        _SIGNAL_VARIABLE: str(queue.signal_seconds or SIGNAL_SECONDS),
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str((script.parents[1] / "src").resolve()), os.environ.get("PYTHONPATH")))
        ),
    }
    unknown = "its job may be there: give the same command again, which looks for it in squeue"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT, env=environment
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"sbatch gave no answer in {TIMEOUT:.0f} s, and {unknown}") from None
    except OSError as error:
        remove(path)
        raise RuntimeError(f"sbatch can't be started: {error}") from None
    if done.returncode < 0:
        raise RuntimeError(f"sbatch was killed by signal {-done.returncode}, and {unknown}")
    if done.returncode:
        remove(path)
        raise RuntimeError(f"sbatch refused: {last_line(done.stderr)} ({shlex.join(command)})")
    return done.stdout.strip().partition(";")[0]


def _literal(folder: Path) -> str:
    """Folder in a name for sbatch, which replaces %u and such, unless a backslash is in it."""
    if "\\" in str(folder):
        raise ValueError(
            f"{folder}: sbatch takes no backslash in a path; set paths.results to one without"
        )
    return str(folder).replace("%", "%%")
