"""Points are queued or held, and not running elsewhere; and a sbatch without an answer."""

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from experiments.config.paths import conf_dir
from experiments.config.reading import read
from experiments.language.trunks import make_trunks
from experiments.sweep import manifest, submission
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.planning import choose
from experiments.sweep.queue import queue_named, queues
from experiments.sweep.queues import _slurm_tasks, slurm
from experiments.sweep.queues.local import Local
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.sweep.submission import Submission
from experiments.sweep.waiting_for import alike
from experiments.system.claims import claimed
from tests.conftest import REPOSITORY


def task(state="PENDING", reason="(Priority)", index=0, sweep_dir=Path()):
    return _slurm_tasks.Row(f"28_{index}", "n", index, state, reason).task(sweep_dir)


@pytest.mark.parametrize(
    ("state", "reason", "held"),
    [
        ("PENDING", "(JobHeldUser)", True),
        ("PENDING", "(JobHeldAdmin)", True),
        ("PENDING", "(JobHoldMaxRequeue)", True),
        ("PENDING", "(launch failed requeued held)", True),
        ("PENDING", "(job requeued in held state)", True),
        ("REQUEUE_HOLD", "(None)", True),
        ("PENDING", "(Priority)", False),
        ("PENDING", "(Resources)", False),
        ("PENDING", "(BeginTime)", False),
        ("PENDING", "(DependencyNeverSatisfied)", False),
        ("RUNNING", "household-7", False),  # a node
    ],
)
def test_what_is_held(state, reason, held):
    release = task(state, reason).release
    assert release == ("scontrol release 28_0" if held else None)


def test_every_launcher_is_a_queue_and_its_settings():
    """All that is found by itself can be chosen."""
    yamls = {path.stem: path.read_text() for path in (conf_dir() / "hydra/launcher").glob("*.yaml")}
    assert set(yamls) == {queue.name() for queue in queues()}
    for name, text in yamls.items():
        given = yaml.safe_load(text)
        chosen = given.pop("_target_").rpartition(".")[2], given.pop("queue")
        assert chosen == ("PointLauncher", name)
        queue = read(queue_named(name), given)
        assert set(given) == {field.name for field in fields(queue)}
        assert queue == queue_named(name)()  # null, or the same default
    with pytest.raises(
        ValueError, match=r"hydra.launcher.queue=x is not one of dask, local, ray, slurm, workers"
    ):
        queue_named("x")


def test_no_file_but_its_own_names_slurm_where_points_are_queued():
    """How srun has started a process is another matter (system/started.py, distributed.py)."""
    source = REPOSITORY / "src" / "experiments"
    found = {p.relative_to(source).as_posix() for p in source.rglob("*.py") if _names_slurm(p)}
    own = {"system/started.py", "system/distributed.py"}
    own |= {f"sweep/queues/{name}.py" for name in ("slurm", "_slurm_tasks", "_slurm_resources")}
    assert found == own


def _names_slurm(path):
    return re.search("slurm", path.read_text(), re.IGNORECASE) is not None


def test_branches_of_a_trunk_are_apart_and_so_are_numbers_of_devices(make):
    wsd = ("optim.schedule=wsd", "optim.warmup_tokens=640", "optim.branch_from=trunk")
    branches = [make("budget=4e9", *wsd), make("budget=8e9", *wsd)]
    (trunk,) = make_trunks(branches)
    alone, ranks = make("seed=1"), make("seed=2", "trainer.devices=2")
    assert alike([*branches, alone, ranks, trunk], []) == [
        (None, (trunk, alone)),
        (None, (ranks,)),
        (trunk.run_id, (branches[1], branches[0])),
    ]
    assert alike(branches, [trunk.run_id]) == [(trunk.run_id, (branches[1], branches[0]))]
    assert alike(branches, []) == [(None, (branches[1], branches[0]))]


@pytest.fixture
def queued(make, monkeypatch):
    """Four points: one in another process, one queued, one held, one that is free."""
    points = [make(f"seed={i}") for i in range(4)]
    tasks = {
        points[1].run_id: task(index=1),
        points[2].run_id: task(reason="(launch failed requeued held)", index=2),
    }
    monkeypatch.setattr(Slurm, "tasks", lambda folder: tasks)
    with claimed(points[0].run_dir):
        yield points, tasks


def test_they_are_kept_apart(queued):
    points, tasks = queued
    todo = choose(points, tasks)
    groups = (todo.running, todo.queued, todo.held, todo.run)
    assert groups == tuple((point,) for point in points)
    assert todo.describe() == (
        "1 of 4 runs are running elsewhere; 1 of 4 runs are queued in Slurm; "
        "1 of 4 runs are held by Slurm, until scontrol release 28_2"
    )


def test_status_says_how_a_held_one_is_released(queued, tmp_path):
    points, _ = queued
    sweep = tmp_path / "results" / "s"
    manifest.add(sweep, [manifest.make_entry(point, None) for point in points])
    found = read_states(sweep)
    assert [p.state for p in found] == ["running", "queued", "held", "waiting"]
    assert found[2].detail == "launch failed requeued held; scontrol release 28_2"


@pytest.mark.parametrize(("n", "code"), [(0, 3), (1, 3), (2, 3)])
def test_on_this_machine_0_is_for_what_is_done(queued, n, code, capsys):
    points, _ = queued
    raw = points[n].raw
    for run in (lambda: run_one(raw), lambda: run_sweep([raw], Local(n_workers=1))):
        with pytest.raises(SystemExit) as end:
            run()
        assert end.value.code == code
    words = ("running elsewhere", "queued in Slurm", "scontrol release 28_2")[n]
    assert capsys.readouterr().out.count(words) == 2


@pytest.mark.parametrize(("n", "code"), [(0, 3), (1, 0), (2, 3)])
def test_on_slurm_0_is_for_what_is_submitted_too(queued, n, code, monkeypatch):
    points, _ = queued
    monkeypatch.setattr(slurm, "is_there", lambda: True)
    monkeypatch.setattr(slurm, "check_answers", lambda: None)
    ended = 0
    try:
        run_sweep([points[n].raw], Slurm())
    except SystemExit as end:
        ended = end.code
    assert ended == code


@pytest.mark.parametrize(
    ("answer", "message", "kept"),
    [
        (subprocess.TimeoutExpired("sbatch", 60), "gave no answer in 60 s, and its job may", True),
        (subprocess.CompletedProcess([], -9, "", ""), "was killed by signal 9, and its job", True),
        (subprocess.CompletedProcess([], 1, "", "no such partition"), "no such partition", False),
        (FileNotFoundError("sbatch"), "can't be started", False),
    ],
)
def test_a_list_is_kept_where_the_job_may_be_there(tmp_path, monkeypatch, answer, message, kept):
    def run(*arguments, **keywords):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    given = Submission(name="now", run_ids=("a",), code="c", devices=1, num_nodes=1, resources={})
    with pytest.raises(RuntimeError, match=message):
        slurm.give(tmp_path, given, Slurm())
    names = [path.stem for path in submission.paths(tmp_path / "slurm")]
    assert names == (["now"] if kept else [])
