"""An app of one's own on real daemons: submitted, killed, put back, cancelled, retried."""

import os
import subprocess
import sys

import pytest

from experiments import cancel, retry
from experiments.records.files import read_any_record
from experiments.sweep.queue import read_tasks
from experiments.sweep.states import read_states
from experiments.system.claims import read_events
from tests.conftest import REPOSITORY
from tests.slurm.conftest import slurm, wait_for_the_queue, wait_until

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
SCRIPT = REPOSITORY / "examples" / "ridge" / "ridge.py"
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.time=10:00")


def ridge(folder, *words):
    command = [sys.executable, str(SCRIPT), "-m", *words, *SLURM, "paths.results=results"]
    done = subprocess.run(
        command, cwd=folder, check=False, timeout=120, capture_output=True, text=True
    )
    assert done.returncode in (0, 3), done.stderr  # 3: others have some
    return done.stdout


def test_its_points_are_tasks_that_are_put_back_and_go_on(tmp_path, monkeypatch):
    """A task is requeued while it runs: Slurm ends it by TERM, it saves, and it goes on."""
    monkeypatch.chdir(tmp_path)
    out = ridge(tmp_path, "degree=3,5", "pause=0.01", "n_steps=1500", "sweep=s")
    assert "sweep s: 2 runs submitted, Slurm job" in out
    sweep = tmp_path / "results" / "s"
    wait_until(lambda: len([*sweep.glob("*/last.ckpt")]) == 2)
    (first, *_), run_id = read_tasks(sweep).values(), next(iter(read_tasks(sweep)))
    slurm("scontrol", "requeue", first.job)
    out = ridge(tmp_path, "degree=3,5", "pause=0.01", "n_steps=1500", "sweep=s")
    assert "submitted" not in out  # nothing is given twice
    wait_for_the_queue()
    assert {point.state for point in read_states(sweep)} == {"done"}
    events = [event["event"] for event in read_events(sweep / run_id)]
    assert events == ["started", "interrupted", "started", "done"]
    assert read_any_record(sweep / run_id / "record.json").n_steps == 1500


def test_a_cancelled_sweep_is_retried_with_its_resources(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ridge(tmp_path, "degree=3,5", "pause=0.01", "n_steps=1000", "sweep=c")
    sweep = tmp_path / "results" / "c"
    wait_until(lambda: len([*sweep.glob("*/last.ckpt")]) == 2)
    assert command(cancel, sweep)[1].startswith("2 Slurm tasks")
    wait_for_the_queue()
    assert {point.state for point in read_states(sweep)} == {"interrupted"}
    code, out, err = command(retry, sweep)
    assert (code, err) == (0, ""), os.environ.get("SLURM_CONF")
    assert "2 runs submitted" in out
    wait_for_the_queue()
    assert {point.state for point in read_states(sweep)} == {"done"}
