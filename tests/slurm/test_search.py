"""A search on real daemons: each trial is submitted once, whoever asks for it."""

import signal

import pytest

from experiments.sweep.queue import read_tasks
from experiments.sweep.search_table import read_cells
from tests.slurm.conftest import wait_for_the_queue, wait_until
from tests.sweep.searches import command, events

pytest.importorskip("optuna")
pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.sweeper.n_trials=6")
WATCH = "hydra.launcher.watch=1"


def test_a_search_goes_on_by_the_same_command_and_by_one_that_watches(tmp_path):
    sweep, log = tmp_path / "results" / "s", tmp_path / "log.txt"

    def trials():
        (cell,) = read_cells(sweep)
        return cell.counts()

    # without max_parallel: a trial a cell, and the command returns
    assert command(tmp_path, *SLURM).wait() == 0, log.read_text()
    assert "1 runs submitted, Slurm job " in log.read_text()
    assert "6 of 6 trials are not done; the same command goes on" in log.read_text()
    assert trials()["left"] == 5
    wait_for_the_queue()
    assert trials()["done"] == 1  # by its record, before it is told
    # two at once: what one has submitted the other leaves alone
    both = [command(tmp_path, *SLURM, "hydra.launcher.max_parallel=2") for _ in "ab"]
    assert [process.wait() for process in both] == [0, 0], log.read_text()
    assert trials()["left"] == 3
    assert len(read_tasks(sweep)) <= 2
    # one that watches is killed, and another goes on to the end
    watcher = command(tmp_path, *SLURM, WATCH, "hydra.launcher.max_parallel=1")
    wait_until(lambda: trials()["left"] <= 2)
    watcher.send_signal(signal.SIGKILL)
    watcher.wait()
    assert command(tmp_path, *SLURM, WATCH).wait() == 0, log.read_text()
    assert trials() == {"done": 6, "diverged": 0, "failed": 0, "running": 0, "left": 0}
    assert sorted(map(tuple, events(tmp_path).values())) == 6 * [("started", "done")]
