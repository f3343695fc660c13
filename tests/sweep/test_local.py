"""Sweeps in real processes: all points once, failures and kills contained."""

import json
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.sweep import many_runs
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.queues.local import Local
from experiments.sweep.snapshot import take_snapshot
from experiments.system.claims import claimed, read_events
from experiments.system.environment import PACKAGE, git_state, usable_cores
from tests.conftest import REPOSITORY


@pytest.fixture
def raws(make):
    """raws("seed=1", ..., models=("dense",)): the config of a point of each model."""

    def of(*overrides, models=("dense", "peer")):
        return [make(f"model={model}", *overrides).raw for model in models]

    return of


def records(tmp_path):
    return [read_record(p) for p in sorted((tmp_path / "results" / "s").glob("*/record.json"))]


def test_runs_every_point_once_and_then_none(raws, tmp_path, capsys):
    points = raws(models=("dense", "moe", "peer"))
    run_sweep(points, Local(n_workers=2))
    done = records(tmp_path)
    assert sorted(r.model for r in done) == ["dense", "moe", "peer"]
    assert {r.status for r in done} == {"done"}
    page = tmp_path / "results" / "s" / "status.html"
    out = capsys.readouterr().out
    assert out.index(f"watch it fill in: {page}\n") < out.index("[1/3]")
    assert out.endswith(f"its page: {page}\n")
    assert "3 of 3 points done" in page.read_text()
    # of the copy that they ran from: the checkout's when it was taken
    commit = git_state(PACKAGE)["git_commit"]
    assert [r.environment["git_commit"] for r in done] == 3 * [commit]
    assert (commit is None) is not (REPOSITORY / ".git").exists()
    assert "[3/3]" in out
    starts = [r.started for r in done]
    run_sweep(points, Local(n_workers=2))
    assert "3 of 3 runs are done already" in capsys.readouterr().out
    assert [r.started for r in records(tmp_path)] == starts


def test_a_point_gives_the_same_loss_alone_and_in_a_sweep(raws, tmp_path):
    (raw,) = raws(models=("peer",))
    run_sweep([raw], Local(n_workers=1))
    (swept,) = records(tmp_path)
    alone = {**raw, "paths": {**raw["paths"], "results": str(tmp_path / "alone")}}
    run_one(alone)
    record = read_record(tmp_path / "alone" / "s" / swept.run_id / "record.json")
    assert record.val_loss == swept.val_loss


def test_a_failing_point_does_not_stop_the_others(raws, tmp_path, capsys, monkeypatch):
    points = raws(models=("dense", "peer"))
    monkeypatch.setattr(many_runs, "prepare_all", lambda points: None)  # let the worker find out
    points[0]["data"]["corpus"]["n_documents"] = 0
    with pytest.raises(SystemExit) as end:
        run_sweep(points, Local(n_workers=2))
    assert end.value.code == 1
    by_model = {r.model: r for r in records(tmp_path)}
    assert (by_model["dense"].status, by_model["peer"].status) == ("failed", "done")
    assert "Traceback" in by_model["dense"].error
    captured = capsys.readouterr()
    assert "1 of 2 runs failed" in captured.err
    log = Path(captured.err.strip().splitlines()[-1].split(": ")[-1])
    assert "Traceback" in log.read_text()


@contextmanager
def killing(folder, number=signal.SIGKILL, every_try=False):
    """Sends a signal to the worker once it has a checkpoint, or to each try as it starts."""
    over = threading.Event()

    def kill():
        killed = set()
        while not over.is_set():
            time.sleep(0.02)
            if not every_try and not list(folder.glob("*/last.ckpt")):
                continue
            for proc in Path("/proc").iterdir():
                if proc.name.isdigit() and proc not in killed and _holds_log(proc, folder):
                    killed.add(proc)
                    os.kill(int(proc.name), number)
                    if not every_try:
                        return

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    over.set()
    killer.join()


def kinds(tmp_path):
    (run_dir,) = (p.parent for p in (tmp_path / "results" / "s").glob("*/events.jsonl"))
    return [e["event"] for e in read_events(run_dir)]


def test_a_killed_worker_is_tried_again_within_the_same_sweep(raws, tmp_path, capsys):
    points = raws("trainer.checkpoint_minutes=1e-3", "budget=5e9", models=("dense",))
    with killing(tmp_path / "results" / "s"):
        run_sweep(points, Local(n_workers=1))
    assert "killed by SIGKILL; see " in capsys.readouterr().out
    assert kinds(tmp_path) == ["started", "tried again", "started", "done"]
    (record,) = records(tmp_path)
    assert record.status == "done"
    (history,) = (tmp_path / "results" / "s").glob("*/history.csv")
    steps = [int(line.split(",")[0]) for line in history.read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == record.n_steps


def test_a_worker_that_is_always_killed_is_given_up(raws, tmp_path, capsys):
    points = raws("trainer.max_retries=1", models=("dense",))
    with killing(tmp_path / "results" / "s", every_try=True), pytest.raises(SystemExit) as end:
        run_sweep(points, Local(n_workers=1))
    assert end.value.code == 1
    assert [k for k in kinds(tmp_path) if k != "started"] == ["tried again", "given up"]
    captured = capsys.readouterr()
    assert captured.out.count("killed by SIGKILL") == 2
    assert "1 of 1 runs failed" in captured.err
    run_sweep(points, Local(n_workers=1))  # and runs them
    assert [r.status for r in records(tmp_path)] == ["done"]


def test_an_interrupted_run_is_no_failure(raws, tmp_path, capsys):
    points = raws("trainer.checkpoint_minutes=1e-3", "budget=5e9", models=("dense",))
    with killing(tmp_path / "results" / "s", signal.SIGUSR2), pytest.raises(SystemExit) as end:
        run_sweep(points, Local(n_workers=1))
    assert end.value.code == 130
    captured = capsys.readouterr()
    assert "seed=0: interrupted; the same command goes on from its checkpoint" in captured.out
    assert "1 of 1 runs were interrupted" in captured.err
    assert "failed" not in captured.out + captured.err


def test_what_another_process_has_is_not_done(raws, tmp_path, capsys):
    points = raws(models=("dense", "peer"))
    with claimed(make_point(points[0]).run_dir), pytest.raises(SystemExit) as end:
        run_sweep(points, Local(n_workers=1))
    assert end.value.code == 3
    captured = capsys.readouterr()
    assert "1 of 2 runs are running elsewhere" in captured.out
    assert "1 of 2 runs are not done" in captured.err
    with claimed(make_point(points[0]).run_dir), pytest.raises(SystemExit) as end:
        run_one(points[0])
    assert end.value.code == 3
    assert [r.model for r in records(tmp_path)] == ["peer"]


def _holds_log(proc, folder):
    try:
        return (proc / "fd" / "1").readlink().is_relative_to(folder)
    except OSError:
        return False


def test_heartbeats_say_where_a_run_is(raws, tmp_path):
    run_sweep(raws("trainer.n_threads=null", models=("dense",)), Local(n_workers=1))
    (path,) = (tmp_path / "results" / "s").glob("*/progress.json")
    row = json.loads(path.read_text())
    assert 0 < row["step"] <= row["n_steps"]
    assert row["tokens_per_second"] > 0
    (record,) = records(tmp_path)  # whose worker had all cores: workers share them
    assert record.environment["n_threads"] == usable_cores()


def test_workers_run_the_code_as_it_was_submitted(raws, tmp_path, monkeypatch):
    """The copy is edited, and the worker shows that it is the copy's."""

    def edited(sweep_dir):
        folder = take_snapshot(sweep_dir)
        path = folder / "src" / "experiments" / "records" / "record.py"
        path.write_text(path.read_text().replace("SCHEMA_VERSION = 1", "SCHEMA_VERSION = 99"))
        return folder

    monkeypatch.setattr("experiments.sweep.entering.take_snapshot", edited)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    multiprocessing.forkserver._forkserver._stop()  # one of another test has the usual code
    run_sweep(raws(models=("dense",)), Local(n_workers=1))
    multiprocessing.forkserver._forkserver._stop()
    (record,) = records(tmp_path)
    assert (record.status, record.schema_version) == ("done", 99)
