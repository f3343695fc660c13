"""GPUs and the first hour on real daemons, whose GPUs are files: torch sees none of them."""

import re
import shlex
import subprocess
import sys

import pytest

from experiments.sweep import many_runs
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from tests.conftest import REPOSITORY, TINY
from tests.slurm.conftest import slurm, wait_for_the_queue
from tests.test_first_hour import SHOWN, pattern

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]


def call(*words):
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout


def test_the_first_step_of_the_first_hour(tmp_path):
    words, shown = SHOWN[0]
    results = str(tmp_path / "results")
    paths = (f"paths.results={results}", f"paths.cache={tmp_path / 'cache'}")
    printed = call("experiments.run", *shlex.split(words), *TINY, *paths)
    job = re.search(r"Slurm job (\d+)", printed)[1]
    expected = shown.replace("job 28", f"job {job}").replace(
        "hello\n", f"hello --results {results}\n"
    )
    assert re.fullmatch(pattern(expected.splitlines()), printed), printed
    wait_for_the_queue()
    text = (REPOSITORY / "docs" / "first-hour.md").read_text()
    line = re.search(r"^\$ python -m experiments\.status hello\n(.*\n)", text, re.MULTILINE)[1]
    assert call("experiments.status", "hello", "--results", results).startswith(line)


@pytest.mark.parametrize(
    "queue",
    [
        Slurm(cpus_per_task=1, gpus_per_node=2),
        Slurm(cpus_per_task=1, extra=("--gpus-per-task=1",)),
    ],
    ids=["gpus-per-node", "gpus-per-task"],
)
def test_ranks_that_find_no_gpu_end_at_once_and_say_why(compose_raw, tmp_path, queue):
    """Slurm gives them; this torch computes on none."""
    raw = compose_raw(
        "cluster=h100", "trainer.devices=2", "size=1", "budget=1e9", "sweep=s", *TINY,
        f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    many_runs.run_sweep([raw], queue)
    wait_for_the_queue()
    (point,) = read_states(tmp_path / "results" / "s")
    assert point.state == "failed"
    seen = r"'0,1'" if queue.gpus_per_node else r"'[01]'"
    assert re.fullmatch(
        rf"planned for a GPU, and .* \(CUDA_VISIBLE_DEVICES is {seen}\)", point.detail
    )
    job = slurm("scontrol", "show", "jobs", "--oneliner").splitlines()[-1]
    assert re.search(r" JobState=FAILED .* Restarts=0 ", job), job
