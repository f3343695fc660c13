"""Two processes that both have the run's lock, as on a network file system that locks for each
machine alone: one of them trains, and the run is that of a process alone.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.system import claims, processes
from experiments.system.claims import RunningElsewhereError, claimed, is_claimed, read_events
from experiments.system.processes import identity
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY

PATIENCE = 600  # seconds for a command on a busy machine: none should need it
HERE, THERE = "here", "there"


@pytest.fixture(scope="module")
def make(compose_raw, tmp_path_factory):
    """make(folder): a point of some seconds, with the same text for all."""
    top = tmp_path_factory.mktemp("hosts")

    def point(folder):
        paths = (f"paths.results={top / folder}", f"paths.cache={top / 'cache'}")
        fixed = ("model=dense", "size=2", "budget=5e9", "logger=csv")
        often = ("logger.log_every_n_steps=2", "trainer.checkpoint_minutes=1e-3")
        return make_point(compose_raw(*fixed, *TINY, *often, "trainer.n_threads=1", *paths))

    return point


def exact(point):
    """What of a run no clock changes: losses, rows, every tensor."""
    record = read_record(point.run_dir / "record.json")
    with (point.run_dir / "history.csv").open(newline="") as file:
        rows = [(row["step"], row["loss"], row["lr"]) for row in csv.DictReader(file)]
    loaded = torch.load(point.run_dir / "last.ckpt", map_location="cpu", weights_only=True)
    weights = {name: tensor.tolist() for name, tensor in loaded["state_dict"].items()}
    return record.status, record.val_loss, record.train_loss, rows, weights


@pytest.fixture(scope="module")
def alone(make):
    point = make("alone")
    assert execute(point, n_threads=1).status == "done"
    return exact(point)


@pytest.fixture
def start(tmp_path):
    """start(point, host, ...): the command on a machine of that name."""
    (tmp_path / THERE).write_text("another boot")
    started = []

    def command(point, host=HERE, ready="", after="", barrier=""):
        config = tmp_path / "config.json"
        config.write_text(json.dumps(point.raw))
        boot = "" if host == HERE else tmp_path / THERE
        words = map(str, (config, host, boot, ready, after, barrier))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.two_hosts", *words], cwd=REPOSITORY, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield command
    for process in started:
        process.kill()
        process.communicate()


def end(process):
    """Its exit code and what it printed."""
    out, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in out
    return process.returncode, out


def wait_for_rows(point, process):
    while not (point.run_dir / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("host", [pytest.param(HERE, marks=pytest.mark.night), THERE])
def test_who_comes_later_leaves_the_run_to_the_first(make, alone, start, tmp_path, host):
    point = make(f"later-{host}")
    ready = tmp_path / "ready"
    second = start(point, host, ready=ready, after=point.run_dir / "last.ckpt")
    first = start(point, after=ready)
    code, out = end(second)
    assert code == 3
    assert "1 of 1 runs are running elsewhere" in out
    assert end(first)[0] == 0
    assert exact(point) == alone
    assert [e["event"] for e in read_events(point.run_dir)] == ["started", "done"]


def test_of_two_that_start_at_once_one_trains(make, alone, start, tmp_path):
    point = make("at-once")
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    both = [start(point, host, barrier=barrier) for host in (HERE, THERE)]
    ends = sorted(end(process) for process in both)
    assert [code for code, _ in ends] == [0, 3]
    assert ends[1][1].splitlines()[-1].startswith(f"{point.run_dir} is being run by ")
    assert exact(point) == alone
    assert [e["event"] for e in read_events(point.run_dir)] == ["started", "started", "done"]


@pytest.mark.night
def test_one_that_was_stopped_for_long_finds_that_another_has_the_run(make, alone, start, tmp_path):
    point = make("stopped")
    ready, go = tmp_path / "ready", tmp_path / "go"
    second = start(point, THERE, ready=ready, after=go)
    first = start(point, after=ready)
    wait_for_rows(point, first)
    first.send_signal(signal.SIGSTOP)
    time.sleep(3)  # else `second` would not wait: it is there
    go.touch()
    while sum(e["event"] == "started" for e in read_events(point.run_dir)) < 2:
        assert second.poll() is None, second.communicate()
        time.sleep(0.01)
    first.send_signal(signal.SIGCONT)
    code, out = end(first)
    assert code == 3
    last = out.splitlines()[-1]
    assert f"is being run by {THERE} pid {second.pid} since this process had it" in last
    assert end(second)[0] == 0
    assert exact(point) == alone


def leave(run_dir, *, age=0.0, **changes):
    """A claim of a process that didn't give it back."""
    run_dir.mkdir(exist_ok=True)
    known = {"token": "a", "host": socket.gethostname(), **asdict(identity(os.getpid()))}
    path = run_dir / ".claim"
    path.write_text(f"somebody\n{json.dumps({**known, **changes})}\n")
    os.utime(path, (time.time() - age, time.time() - age))


GONE = {
    "killed on this machine": {"pid": 2**22 + 1},
    "its number is another's": {"pid": 1},
    "this machine was started again": {"boot": "before"},
    "on another machine long ago": {"boot": "b", "host": "other", "age": 2 * claims.LEASE},
    "by this process, which gave up": {},
}


@pytest.mark.parametrize("changes", GONE.values(), ids=GONE)
def test_a_claim_of_nobody_is_free_at_once(tmp_path, capsys, changes):
    run_dir = tmp_path / "run"
    leave(run_dir, **changes)
    assert not is_claimed(run_dir)
    with claimed(run_dir):
        assert is_claimed(run_dir)
    assert not is_claimed(run_dir)
    assert (run_dir / ".claim").read_bytes() == b""
    assert capsys.readouterr().err == ""


def test_a_process_that_is_killed_and_not_waited_for_is_gone(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    leave(tmp_path / "run", **asdict(identity(process.pid)))
    assert is_claimed(tmp_path / "run")
    with pytest.raises(RunningElsewhereError, match="by somebody, whose lock"):
        claimed(tmp_path / "run").__enter__()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_claimed(tmp_path / "run")
    process.wait()


def test_another_machine_s_claim_is_free_when_nobody_renews_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "_POLL", 0.001)
    monkeypatch.setattr(claims, "LEASE", 0.1)
    leave(tmp_path / "run", boot="b", host="other")
    assert is_claimed(tmp_path / "run")
    with claimed(tmp_path / "run"):
        pass
    assert capsys.readouterr().err == (
        f"note: {tmp_path / 'run'} was being run by somebody within the last 0 s: waiting to see "
        "if it still is\n"
    )


@pytest.mark.parametrize("text", ["", "vm pid 1", "a\n{}", "a\n[]", "a\n{", "\0" * 99, "a\n" * 9])
def test_a_claim_that_says_nothing_is_free(tmp_path, text):
    (tmp_path / ".claim").write_text(text)
    assert not is_claimed(tmp_path)
    with claimed(tmp_path) as claim:
        claim.check()


def test_another_s_token_ends_who_looks(tmp_path):
    with claimed(tmp_path) as claim:
        claim.check()
        leave(tmp_path, boot="b", host="other")
        with pytest.raises(RunningElsewhereError, match="by somebody since this process had it"):
            claim.check()
    assert is_claimed(tmp_path)  # the other's claim is left
    assert processes.identity(os.getpid()).boot is not None
