"""A real Slurm on this machine, for these tests alone."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from experiments.sweep.states import read_states
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "tests" / "slurm" / "cluster.sh"


@pytest.fixture(scope="session")
def cluster():
    """Cluster's folder; SLURM_CONF points to it. Skips where it can't be had."""
    missing = [c for c in ("slurmctld", "slurmd", "munged") if shutil.which(c) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}; see {SCRIPT.name}")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # the database's user has to get in
    accounting = ["--accounting"] if shutil.which("slurmdbd") and shutil.which("mariadbd") else []
    down = [SCRIPT, "down", folder]
    up = [SCRIPT, "up", folder, *accounting]
    done = subprocess.run(up, check=False, timeout=120, capture_output=True, text=True)
    if done.returncode:
        subprocess.run(down, check=False, timeout=120)
        pytest.fail(f"{' '.join(map(str, up))}: {done.stderr}")
    os.environ["SLURM_CONF"] = str(folder / "etc" / "slurm.conf")
    # jobs find tests.conftest.Nursery, and commands this checkout's code
    os.environ["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"
    yield folder
    subprocess.run(down, check=False, timeout=120)
    shutil.rmtree(folder, ignore_errors=True)
    del os.environ["SLURM_CONF"], os.environ["PYTHONPATH"]


def slurm(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def wait_until(true, seconds=120.0):
    """Polls until true() is; its value. Fails after so long."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s\n{slurm('squeue')}"
        time.sleep(0.3)
    return value


def wait_for_the_queue(seconds=180.0):
    """Until no job is left."""
    wait_until(lambda: not slurm("squeue", "--noheader"), seconds)


def states(sweep_dir: Path) -> dict[str, list[str]]:
    """Labels of the points in each state."""
    found: dict[str, list[str]] = {}
    for point in read_states(sweep_dir):
        found.setdefault(point.state, []).append(point.label)
    return found
