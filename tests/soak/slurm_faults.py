"""Sweeps on real Slurm daemons of their own, whose jobs, tasks, daemons and nodes fail."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queues.slurm import Slurm
from experiments.system.claims import CLAIM_NAME, is_claimed
from tests.conftest import REPOSITORY
from tests.soak.points import MODELS, Case, Points
from tests.soak.processes import Body, alive, call
from tests.soak.stage import Alone
from tests.soak.trials import Outcome, Trial
from tests.soak.watched import PLACE

_SCRIPT = REPOSITORY / "tests" / "slurm" / "cluster.sh"
_RESOURCES = Slurm(cpus_per_task=1, signal_seconds=20)
_N_STEPS = 1000  # some 6 s after an import of 10: faults meet both
_N_FAULTS = 10
_LIMIT = 900.0  # seconds in which a disturbed sweep has to end


class Cluster(Alone):
    """Some points by `python -m experiments.run -m hydra/launcher=slurm`."""

    name = "slurm"

    def __init__(self, folder: Path, points: Points, cases: Sequence[Case]) -> None:
        super().__init__(folder, points, cases)
        os.environ[PLACE] = str(self.diary)

    def command(self) -> Body:
        """Submits what is to be done, and returns at once."""
        return call(run_sweep, self.raws(), _RESOURCES)


@contextmanager
def daemons(folder: Path) -> Iterator[str | None]:
    """A cluster while it lasts; yields why there can be none here, or None."""
    missing = [c for c in ("slurmctld", "slurmd", "munged") if shutil.which(c) is None]
    if missing or os.geteuid():
        yield f"needs root and {', '.join(missing) or 'nothing else'}"
        return
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    try:
        done = subprocess.run([_SCRIPT, "up", folder], capture_output=True, text=True, timeout=120)
        if done.returncode:
            yield f"the daemons don't start: {done.stderr.strip()[-300:]}"
            return
        os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
        os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"
        yield None
    finally:
        subprocess.run([_SCRIPT, "down", folder], check=False, timeout=120)
        for name in ("SLURM_CONF", "PYTHONPATH", PLACE):
            os.environ.pop(name, None)


def slurm_trial(name: str, seed: int, points: Points, folder: Path, root: Path) -> Outcome:
    """Four points, and a fault every few seconds until there were ten or all are done."""
    rng = random.Random(f"{seed} {name}")
    models = ["noisy", *rng.sample(MODELS[1:], 3)]
    watched = ("data.corpus._target_=tests.soak.watched.Watched",)
    cases = [points.case(model, 0, _N_STEPS, minutes=0.005, overrides=watched) for model in models]
    trial = Trial(name, Cluster(folder, points, cases), rng)
    return trial.run(lambda trial: _disturb(trial, root))


def _disturb(trial: Trial, root: Path) -> None:
    stage = trial.stage
    trial.stage.start().wait(120.0)
    deadline = time.monotonic() + _LIMIT
    while not stage.is_done():
        if time.monotonic() > deadline:
            trial.wrong(f"not done after {_LIMIT:.0f} s: {_slurm('squeue').strip()}", "hang")
            _slurm("scancel", "--user=root")
            break
        if len(trial.outcome.faults) < _N_FAULTS:
            time.sleep(trial.rng.uniform(1.0, 8.0))
            trial.rng.choice(_FAULTS)(trial, root)
        _attend()
        if _slurm("squeue", "--noheader"):
            time.sleep(1.0)
        elif not stage.is_done():  # failed or cancelled: whoever submitted it does so again
            trial.stage.start().wait(120.0)
            time.sleep(1.0)


def _attend() -> None:
    """As an administrator: nodes that Slurm has drained come back, held jobs are released."""
    for node in _NODES:
        _slurm(
            "scontrol", "update", f"nodename={node}", "state=resume"
        )  # refused of one that is up
    waiting = _slurm("squeue", "--noheader", "--array", "--states=PENDING", "--format=%F_%K %r")
    for line in (waiting or "").splitlines():
        job, _, reason = line.partition(" ")
        if "held" in reason.lower():
            _slurm("scontrol", "release", job)


def _requeue(trial: Trial, root: Path) -> None:
    job = _some_job(trial)
    if job and _slurm("scontrol", "requeue", job) is not None:
        trial.injected("slurm requeue", job)


def _cancel(trial: Trial, root: Path) -> None:
    job = _some_job(trial)
    if job and _slurm("scancel", job) is not None:
        trial.injected("slurm scancel", job)
        time.sleep(trial.rng.uniform(0.0, 5.0))
        trial.stage.start().wait(120.0)  # submitted again


def _kill(trial: Trial, root: Path) -> None:
    held = [folder for folder in trial.stage.run_dirs if is_claimed(folder)]
    if held:
        folder = trial.rng.choice(held)
        if _kill_holder(folder):
            trial.injected("slurm task kill -9", folder.name)


def _kill_at_checkpoint(trial: Trial, root: Path) -> None:
    """While one is written."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        for folder in trial.stage.run_dirs:
            if (folder / "last.partial").exists() and _kill_holder(folder):
                trial.injected("slurm task kill -9 at a checkpoint", folder.name)
                return
        time.sleep(0.001)


def _kill_holder(folder: Path) -> bool:
    with suppress(OSError, LookupError, ValueError):
        pid = int((folder / CLAIM_NAME).read_text().split(" pid ")[1].split()[0])
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _kill_slurmctld(trial: Trial, root: Path) -> None:
    pid = _daemons(root, "slurmctld")[-1]
    _restart(trial, root, pid, "slurmctld", "-D")
    trial.injected("slurmctld kill -9", str(pid))
    deadline = time.monotonic() + 60.0
    while "is UP" not in (_slurm("scontrol", "ping") or "") and time.monotonic() < deadline:
        time.sleep(0.5)


def _kill_slurmd(trial: Trial, root: Path) -> None:
    """Of one node; its tasks go on meanwhile."""
    node = trial.rng.choice(_NODES)
    for pid in _daemons(root, "slurmd"):
        with suppress(OSError):
            if node.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                _restart(trial, root, pid, "slurmd", "-D", "-N", node)
                trial.injected("slurmd kill -9", node)
                return


def _daemons(root: Path, name: str) -> list[int]:
    lines = [line.split() for line in (root / "run" / "pids").read_text().splitlines()]
    return [int(pid) for found, pid in lines if found == name]


def _restart(trial: Trial, root: Path, pid: int, *command: str) -> None:
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.05)
    time.sleep(trial.rng.uniform(0.0, 5.0))
    new = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (root / "run" / "pids").open("a") as file:
        file.write(f"{command[0]} {new.pid}\n")


def _down(trial: Trial, root: Path) -> None:
    """A node is lost: its jobs are ended and requeued."""
    _take_out(trial, "down")


def _drain(trial: Trial, root: Path) -> None:
    """A node gets no new jobs for a while."""
    _take_out(trial, "drain")


def _take_out(trial: Trial, state: str) -> None:
    node = trial.rng.choice(
        (_slurm("squeue", "-h", "-t", "RUNNING", "-o", "%N") or "").split() or _NODES
    )
    if (
        _slurm("scontrol", "update", f"nodename={node}", f"state={state}", "reason=soak")
        is not None
    ):
        trial.injected(f"node {state}", node)
        time.sleep(trial.rng.uniform(1.0, 8.0))
        _slurm("scontrol", "update", f"nodename={node}", "state=resume")


def _preempt(trial: Trial, root: Path) -> None:
    """A job of the partition that goes first wants a whole node."""
    node = trial.rng.choice(_NODES)
    busy = node in (_slurm("squeue", "-h", "-t", "RUNNING", "-o", "%N") or "").split()
    job = ("--partition=high", "--exclusive", f"--nodelist={node}", "--output=/dev/null")
    if _slurm("sbatch", *job, "--wrap=sleep 3") is not None and busy:
        trial.injected("slurm preemption", node)


def _limit(trial: Trial, root: Path) -> None:
    """A job's time is up a minute after it began."""
    job = _some_job(trial)
    if job and _slurm("scontrol", "update", f"jobid={job}", "timelimit=1") is not None:
        trial.injected("slurm time limit", job)


_NODES = ("n1", "n2", "n3")  # of cluster.sh
_FAULTS = (
    _requeue, _cancel, _kill, _kill_at_checkpoint, _kill_slurmctld, _kill_slurmd, _down, _drain,
    _preempt, _limit,
)  # fmt: skip


def _some_job(trial: Trial) -> str | None:
    out = _slurm("squeue", "--noheader", "--array", "--states=RUNNING", "--format=%F_%K") or ""
    jobs = out.split()
    return trial.rng.choice(jobs) if jobs else None


def _slurm(*command: str) -> str | None:
    """What a command of Slurm prints; None if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode else done.stdout
