"""Sweeps on real daemons: whatever happens to jobs, every point is done once and none is lost."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.sweep import many_runs
from experiments.sweep.queue import read_tasks
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.system.claims import read_events
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY
from tests.slurm.conftest import slurm, states, wait_for_the_queue, wait_until
from tests.slurm.slow import SLOW

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
SHORT = "budget=1e9"  # FLOPs: a second of computing
LONG = ("budget=1.5e9", SLOW)  # 246 steps: 25 s at least
# 410 steps: past Slurm's next look at the limits, every 30 s, where a minute's are within its lead
LIMITED = ("budget=2.5e9", SLOW)
RESOURCES = Slurm(cpus_per_task=1, signal_seconds=20)


@pytest.fixture
def raws(compose_raw, tmp_path):
    def make(*overrides, models=("dense",), seeds=(0,), results="results"):
        fixed = (
            "size=1",
            "sweep=s",
            "trainer.n_threads=1",
            "trainer.checkpoint_minutes=0.01",
            "logger.log_every_n_steps=5",
            *TINY,
            f"paths.results={tmp_path / results}",
            f"paths.cache={tmp_path / 'cache'}",
        )
        return [
            compose_raw(*fixed, f"model={model}", f"seed={seed}", *overrides)
            for model in models
            for seed in seeds
        ]

    return make


@pytest.fixture
def sweep(tmp_path):
    return tmp_path / "results" / "s"


def alone(raws, tmp_path):
    """Record of a point that nothing happened to."""
    (raw,) = raws
    return execute(
        make_point({**raw, "paths": {**raw["paths"], "results": str(tmp_path / "alone")}})
    )


def started(run_dir):
    return sum(e["event"] == "started" for e in read_events(run_dir))


def pid_of(run_dir):
    """Process that has the run, once it has a checkpoint."""
    wait_until(lambda: (run_dir / "last.ckpt").exists())
    return int((run_dir / ".claim").read_text().split(" pid ")[1].split()[0])


def test_an_array_with_a_failing_point_and_a_killed_one(raws, sweep, monkeypatch, capsys):
    short = raws(SHORT, models=("dense", "peer"), seeds=(0, 1))
    failing, killed = raws(SHORT, seeds=(7,)), raws(*LONG, seeds=(8,))
    many_runs.prepare_all([make_point(raw) for raw in short])
    monkeypatch.setattr(many_runs, "prepare_all", lambda points: None)
    failing[0]["data"]["corpus"]["n_documents"] = 0
    points = [*short, *failing, *killed]
    many_runs.run_sweep(points, RESOURCES)
    out = capsys.readouterr().out
    job = re.search(r"6 runs submitted, Slurm job (\d+)", out)[1]
    assert "status: python -m experiments.status s --results " in out
    victim = sweep / make_point(killed[0]).run_id
    os.kill(pid_of(victim), signal.SIGKILL)
    wait_for_the_queue()

    assert {name: len(labels) for name, labels in states(sweep).items()} == {
        "done": 4,
        "failed": 1,
        "killed": 1,
    }
    by_state = {p.state: p for p in read_states(sweep)}
    assert by_state["failed"].detail.startswith("ValueError: vocab_size=270, but the text")
    assert "Traceback" in Path(by_state["failed"].log).read_text()
    exits = slurm("scontrol", "show", "job", job, "--oneliner")  # other tests' are known too
    assert exits.count("ExitCode=1:0") == 1
    assert (
        exits.count("ExitCode=0:9") + exits.count("ExitCode=9:0") + exits.count("ExitCode=137:0")
        == 1
    )

    # the same command, twice at once: what was done is adopted, the rest is submitted once
    threads = [threading.Thread(target=many_runs.run_sweep, args=(points, RESOURCES)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_tasks(sweep)) == 2
    wait_for_the_queue()
    assert {name: len(labels) for name, labels in states(sweep).items()} == {"done": 5, "failed": 1}
    starts = {p.run_id: started(sweep / p.run_id) for p in read_states(sweep)}
    assert sorted(starts.values()) == [1, 1, 1, 1, 2, 2]
    assert starts[victim.name] == 2


def test_a_preempted_point_is_requeued_once_and_ends_as_if_nothing_had_happened(
    raws, sweep, tmp_path
):
    points = raws(*LONG)
    expected = alone(points, tmp_path)
    here = ("--nodelist=n1", "--exclusive")
    many_runs.run_sweep(points, Slurm(cpus_per_task=1, signal_seconds=20, extra=here))
    run_dir = sweep / expected.run_id
    pid_of(run_dir)
    slurm("sbatch", "--partition=high", *here, "--output=/dev/null", "--wrap", "sleep 3")
    wait_until(lambda: any(e["event"] == "interrupted" for e in read_events(run_dir)))
    wait_for_the_queue()
    record = read_record(run_dir / "record.json")
    assert (record.val_loss, record.train_loss) == (expected.val_loss, expected.train_loss)
    assert [e["event"] for e in read_events(run_dir)] == [
        "started",
        "interrupted",
        "started",
        "done",
    ]
    (point,) = read_states(sweep)
    assert (point.state, point.n_stops) == ("done", 1)


def test_a_node_that_goes_down_loses_nothing(raws, sweep):
    points = raws(*LONG)
    many_runs.run_sweep(points, Slurm(cpus_per_task=1, extra=("--exclude=n1",)))
    run_dir = sweep / make_point(points[0]).run_id
    pid = pid_of(run_dir)
    node = slurm("squeue", "--noheader", "--format=%N")
    slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    os.kill(pid, signal.SIGKILL)  # as it is on a node that is down
    try:
        wait_until(lambda: (run_dir / "record.json").exists())
        wait_for_the_queue()
    finally:
        # it may have come back by itself, and then refuses
        resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
        subprocess.run(resume, check=False, capture_output=True)
    (point,) = read_states(sweep)
    assert point.state == "done"
    assert started(run_dir) == 2


@pytest.mark.parametrize("submits", [True, False], ids=["after sbatch", "before sbatch"])
def test_a_controller_killed_during_submission(raws, sweep, tmp_path, submits):
    """A `sbatch` that kills whoever called it: after the real one has submitted, or instead."""
    points = raws(SHORT, seeds=(0, 1))
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    call = f'{slurm("which", "sbatch")} "$@"' if submits else ":"
    fake.write_text(f"#!/bin/sh\n{call}\nkill -9 $PPID\n")
    fake.chmod(0o755)
    command = [
        sys.executable, "-m", "experiments.run", "-m", "hydra/launcher=slurm",
        "hydra.launcher.cpus_per_task=1", "size=1", "sweep=s", "trainer.n_threads=1", SHORT,
        "trainer.checkpoint_minutes=0.01", "logger.log_every_n_steps=5", *TINY, "seed=0,1",
        f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    killed = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    first = subprocess.run(command, env=killed, cwd=REPOSITORY, check=False, timeout=120)
    assert first.returncode == -signal.SIGKILL
    again = subprocess.run(
        command, cwd=REPOSITORY, check=False, timeout=120, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert ("2 runs submitted" in again.stdout) == (not submits)
    wait_for_the_queue()
    assert [p.state for p in read_states(sweep)] == ["done", "done"]
    assert {p.run_id for p in read_states(sweep)} == {make_point(raw).run_id for raw in points}
    assert all(started(sweep / p.run_id) == 1 for p in read_states(sweep))


def test_two_ranks_train_one_run_and_survive_a_signal(raws, sweep, tmp_path):
    ranks = ("trainer.devices=2", "budget=5e9")
    resources = Slurm(cpus_per_task=1, setup="export MASTER_ADDR=127.0.0.1", extra=("-w", "n1"))
    whole = raws(*ranks, models=("peer",), results="whole")
    many_runs.run_sweep(whole, resources)
    wait_for_the_queue()
    expected = read_record(tmp_path / "whole" / "s" / make_point(whole[0]).run_id / "record.json")
    assert expected.status == "done", expected.error

    many_runs.run_sweep(raws(*ranks, models=("peer",)), resources)
    run_dir = sweep / expected.run_id
    pid_of(run_dir)
    job = slurm("squeue", "--noheader", "--format=%i")
    slurm("scancel", "--signal=USR1", job)
    wait_for_the_queue()
    (point,) = read_states(sweep)
    assert (point.state, point.n_stops) == ("interrupted", 1)
    many_runs.run_sweep(raws(*ranks, models=("peer",)), resources)
    wait_for_the_queue()
    record = read_record(run_dir / "record.json")
    assert (record.val_loss, record.train_loss) == (expected.val_loss, expected.train_loss)


def test_cancel_withdraws_what_is_queued_and_saves_what_runs(raws, sweep, tmp_path):
    many_runs.run_sweep(raws(*LONG, seeds=(0, 1)), Slurm(cpus_per_task=1, max_parallel=1))
    (first,) = wait_until(lambda: [p for p in read_states(sweep) if p.state == "running"])
    pid_of(sweep / first.run_id)
    command = [sys.executable, "-m", "experiments.cancel", "s", "--results", str(sweep.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "2 Slurm tasks and 0 local sweeps" in done.stdout
    wait_for_the_queue()
    assert {p.state for p in read_states(sweep)} <= {"interrupted", "killed", "waiting"}
    assert (sweep / first.run_id / "last.ckpt").exists()


def array_states():
    """Slurm's state and restarts of every task of the newest array, by task."""
    out = slurm("scontrol", "show", "jobs", "--oneliner").splitlines()
    tasks = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in out]
    newest = max(int(task.get("ArrayJobId", 0)) for task in tasks)
    return {
        task["ArrayTaskId"]: (task["JobState"], int(task["Restarts"]))
        for task in tasks
        if task.get("ArrayJobId") == str(newest)
    }


def test_a_task_at_its_limit_requeues_itself_and_leaves_its_siblings_alone(raws, sweep):
    """Of an array, the last task's SLURM_JOB_ID is the array's number, which names them all."""
    points = [*raws(SHORT, seeds=(0,)), *raws(*LIMITED, seeds=(1,))]
    many_runs.run_sweep(points, Slurm(cpus_per_task=1, signal_seconds=20, time="1"))
    short, long = (sweep / make_point(raw).run_id for raw in points)
    wait_until(lambda: any(e["event"] == "requeued" for e in read_events(long)), 150)
    wait_for_the_queue(300)
    assert [p.state for p in read_states(sweep)] == ["done", "done"]
    others, journal = ([e["event"] for e in read_events(run)] for run in (short, long))
    n = journal.count("requeued")
    # each by itself; the short one too, if Slurm looks at the limits in its few seconds
    restarts = [restarts for _, restarts in array_states().values()]
    assert sorted(restarts) == sorted([n, others.count("requeued")])
    assert journal == ["started", *["interrupted", "requeued", "started"] * n, "done"]
    steps = [int(line.split(",")[0]) for line in (long / "history.csv").read_text().split()[1:]]
    assert steps == sorted(set(steps))


def test_what_scancel_ends_near_the_limit_stays_ended(raws, sweep):
    points = raws(*LIMITED)
    many_runs.run_sweep(points, Slurm(cpus_per_task=1, signal_seconds=20, time="1"))
    run_dir = sweep / make_point(points[0]).run_id
    pid_of(run_dir)  # within signal_seconds + 60 s of the limit from its start
    job = slurm("squeue", "--noheader", "--array", "--format=%i").split()[0]
    slurm("scancel", job)
    wait_until(lambda: any(e["event"] == "interrupted" for e in read_events(run_dir)))
    wait_for_the_queue()
    assert {state for state, _ in array_states().values()} == {"CANCELLED"}
    assert [e["event"] for e in read_events(run_dir)] == ["started", "interrupted"]
    (point,) = read_states(sweep)
    assert point.state == "interrupted"


def test_a_held_task_is_shown_with_what_releases_it(raws, sweep):
    points = raws(SHORT, seeds=(0, 1))
    many_runs.run_sweep(points, Slurm(cpus_per_task=1, extra=("--hold",)))
    found = wait_until(lambda: [p for p in read_states(sweep) if p.state == "held"])
    assert len(found) == 2
    with pytest.raises(SystemExit) as end:
        many_runs.run_sweep(points, RESOURCES)
    assert end.value.code == 3
    for point in found:
        subprocess.run(point.detail.partition("; ")[2].split(), check=True, timeout=60)
    wait_for_the_queue()
    assert [p.state for p in read_states(sweep)] == ["done", "done"]


def test_a_path_with_sbatchs_symbols_and_a_damaged_submission(raws, tmp_path):
    name = "100%u %j"
    sweep = tmp_path / name / "s"
    many_runs.run_sweep(raws(SHORT, results=name), RESOURCES)
    wait_for_the_queue()
    (first,) = read_states(sweep)
    assert (first.state, Path(first.log).parent) == ("done", sweep / "slurm")
    assert Path(first.log).is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("100")] == [name]
    (path,) = (sweep / "slurm").glob("*.json")
    path.write_text("")  # as a disk without power leaves it
    many_runs.run_sweep(raws(*LONG, seeds=(1, 2), results=name), RESOURCES)
    wait_until(lambda: [p for p in read_states(sweep) if p.state == "running"])
    newest = max((sweep / "slurm").glob("*.json"))
    newest.write_text("")
    damaged = [f"{p} is damaged (not a submission: Expecting value: " for p in (path, newest)]
    for command in ("status", "cancel"):
        words = [sys.executable, "-m", f"experiments.{command}", str(sweep)]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        if command == "status":
            assert [text in done.stderr for text in damaged] == [True, True]
    assert "2 Slurm tasks and 0 local sweeps" in done.stdout
    wait_for_the_queue()
