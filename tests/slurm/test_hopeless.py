"""trainer.stop_hopeless on real daemons: the task ends well, and its point is left alone."""

import re
import subprocess
import sys

import pytest

from experiments.points.planning import make_point
from experiments.sweep import many_runs
from experiments.sweep.queue import read_tasks
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.system.claims import read_events
from tests.conftest import REPOSITORY, TINY
from tests.slurm.conftest import slurm, wait_for_the_queue

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]


def test_a_hopeless_point_ends_in_its_own_state_and_is_left_alone(compose_raw, tmp_path, capsys):
    results = tmp_path / "results"
    sweep = results / "s"
    fixed = (
        "model=dense", "size=2", "budget=1e9", "sweep=s", *TINY, "trainer.stop_hopeless=0.05",
        "logger.log_every_n_steps=1", f"paths.results={results}",
        f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    raws = [compose_raw(*fixed, f"ladder.lr={lr}") for lr in ("1e-2", "1e-7")]
    good, bad = map(make_point, raws)

    # one at a time: the good one ends first, and is the best of the cell
    many_runs.run_sweep(raws, Slurm(cpus_per_task=1, max_parallel=1))
    job = re.search(r"2 runs submitted, Slurm job (\d+)", capsys.readouterr().out)[1]
    wait_for_the_queue()
    points = {p.run_id: p for p in read_states(sweep)}
    assert (points[good.run_id].state, points[bad.run_id].state) == ("done", "hopeless")
    assert f"that of {good.run_id} was" in points[bad.run_id].detail
    assert [e["event"] for e in read_events(bad.run_dir)] == ["started", "hopeless"]
    # to Slurm both have succeeded: nothing to requeue, and no mail about a failure
    assert slurm("scontrol", "show", "job", job, "--oneliner").count("JobState=COMPLETED") == 2

    def command(name):
        words = [sys.executable, "-m", f"experiments.{name}", "s", "--results", str(results)]
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)

    said = command("status").stdout
    assert "sweep s: 2 points, 1 done, 1 hopeless;" in said
    assert re.search(rf"^hopeless +{bad.run_id} .* stopped at step 12: ", said, re.MULTILINE)
    assert "sweep s: 2 of 2 runs are done already" in command("retry").stdout
    assert not read_tasks(sweep)
    assert len(read_events(bad.run_dir)) == 2
