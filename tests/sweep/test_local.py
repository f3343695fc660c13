"""Sweeps in real processes: all points once, failures and kills contained."""

import json
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.records import read_record
from experiments.sweep import local
from experiments.sweep.snapshot import take_snapshot
from experiments.tables import count, duration
from tests.conftest import TINY

pytestmark = pytest.mark.slow


@pytest.fixture
def raws(compose_raw, tmp_path):
    def make(*overrides, models=("dense", "peer"), seeds=(0,)):
        out = []
        for model in models:
            for seed in seeds:
                raw = compose_raw(
                    f"model={model}",
                    f"seed={seed}",
                    "size=1",
                    "budget=1e9",
                    "sweep=s",
                    *TINY,
                    f"paths.results={tmp_path / 'results'}",
                    f"paths.cache={tmp_path / 'cache'}",
                    *overrides,
                )
                out.append(raw)
        return out

    return make


def records(tmp_path):
    return [read_record(p) for p in sorted((tmp_path / "results" / "s").glob("*/record.json"))]


def test_runs_every_point_once_and_then_none(raws, tmp_path, capsys):
    points = raws(models=("dense", "moe", "peer"))
    local.run_sweep(points, n_workers=2)
    done = records(tmp_path)
    assert sorted(r.model for r in done) == ["dense", "moe", "peer"]
    assert {r.status for r in done} == {"done"}
    out = capsys.readouterr().out
    assert "[3/3]" in out
    starts = [r.started for r in done]
    local.run_sweep(points, n_workers=2)
    assert "3 of 3 runs are done already" in capsys.readouterr().out
    assert [r.started for r in records(tmp_path)] == starts


def test_a_point_gives_the_same_loss_alone_and_in_a_sweep(raws, tmp_path):
    (raw,) = raws("trainer.n_threads=1", models=("peer",))
    local.run_sweep([raw], n_workers=1)
    (swept,) = records(tmp_path)
    alone = {**raw, "paths": {**raw["paths"], "results": str(tmp_path / "alone")}}
    local.run_one(alone)
    record = read_record(tmp_path / "alone" / "s" / swept.run_id / "record.json")
    assert record.val_loss == swept.val_loss


def test_a_failing_point_does_not_stop_the_others(raws, tmp_path, capsys, monkeypatch):
    points = raws(models=("dense", "peer"))
    monkeypatch.setattr(local, "prepare_all", lambda points: None)  # let the worker find out
    points[0]["data"]["corpus"]["n_documents"] = 0
    with pytest.raises(SystemExit) as end:
        local.run_sweep(points, n_workers=2)
    assert end.value.code == 1
    by_model = {r.model: r for r in records(tmp_path)}
    assert (by_model["dense"].status, by_model["peer"].status) == ("failed", "done")
    assert "Traceback" in by_model["dense"].error
    captured = capsys.readouterr()
    assert "1 of 2 runs failed" in captured.err
    log = Path(captured.err.strip().splitlines()[-1].split(": ")[-1])
    assert "Traceback" in log.read_text()


def test_a_killed_worker_is_a_failure_and_is_taken_up_again(raws, tmp_path, capsys):
    points = raws("trainer.checkpoint_minutes=0", "budget=2e10", models=("dense",))

    def kill():
        folder = tmp_path / "results" / "s"
        while not list(folder.glob("*/last.ckpt")):
            time.sleep(0.05)
        for proc in Path("/proc").iterdir():
            if proc.name.isdigit() and _holds_log(proc, folder):
                os.kill(int(proc.name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(SystemExit):
        local.run_sweep(points, n_workers=1)
    killer.join()
    assert "ended with -9" in capsys.readouterr().out
    assert records(tmp_path) == []
    local.run_sweep(points, n_workers=1)
    (record,) = records(tmp_path)
    assert record.status == "done"
    (history,) = (tmp_path / "results" / "s").glob("*/history.csv")
    steps = [int(line.split(",")[0]) for line in history.read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))
    assert steps[-1] == record.n_steps


def _holds_log(proc, folder):
    try:
        return (proc / "fd" / "1").readlink().is_relative_to(folder)
    except OSError:
        return False


def test_heartbeats_say_where_a_run_is(raws, tmp_path):
    local.run_sweep(raws(models=("dense",)), n_workers=1)
    (path,) = (tmp_path / "results" / "s").glob("*/progress.json")
    row = json.loads(path.read_text())
    assert 0 < row["step"] <= row["n_steps"]
    assert row["tokens_per_second"] > 0


def test_workers_run_the_code_as_it_was_submitted(raws, tmp_path, monkeypatch):
    """The copy is edited, and the worker shows that it is the copy's."""

    def edited(sweep_dir):
        folder = take_snapshot(sweep_dir)
        path = folder / "src" / "experiments" / "records.py"
        path.write_text(path.read_text().replace("SCHEMA_VERSION = 1", "SCHEMA_VERSION = 99"))
        return folder

    monkeypatch.setattr(local, "take_snapshot", edited)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    multiprocessing.forkserver._forkserver._stop()  # one of another test has the usual code
    local.run_sweep(raws(models=("dense",)), n_workers=1)
    multiprocessing.forkserver._forkserver._stop()
    (record,) = records(tmp_path)
    assert (record.status, record.schema_version) == ("done", 99)


def test_numbers_are_readable():
    assert [count(x) for x in (5, 1234, 1.5e6, 2.27e9, 6e18)] == [
        "5",
        "1.23k",
        "1.5M",
        "2.27G",
        "6e+06T",
    ]
    assert [duration(x) for x in (3, 119, 600, 7300, 1e6)] == [
        "3 s",
        "119 s",
        "10 min",
        "2.0 h",
        "12 days",
    ]
