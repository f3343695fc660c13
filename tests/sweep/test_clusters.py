"""Launchers of Dask and Ray: workers that a cluster's scheduler starts."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from experiments.sweep import submission
from experiments.sweep.control import controlling
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.planning import plan_points
from experiments.sweep.queues import _cluster, _waiting
from experiments.sweep.queues._cluster import Cluster, Nodes, work
from experiments.sweep.queues.dask import Dask
from experiments.sweep.queues.ray import Ray
from experiments.sweep.queues.workers import Workers
from experiments.sweep.states import read_states
from experiments.sweep.submission import Submission
from experiments.system.claims import read_events

KINDS = (Dask, Ray)


class Threads(Nodes):
    """Two nodes of this process: a thread waits for each worker."""

    def __init__(self, fails=0):
        self.started, self.fails = [], fails

    def size(self):
        return 2

    def start(self, sweep_dir, folder, environment):
        words = [sys.executable, "-c", "raise SystemExit(3)"]
        if self.fails <= len(self.started):
            words = [sys.executable, "-m", "experiments.work", sweep_dir]
        given = {**os.environ, **environment}
        self.started.append(subprocess.Popen(words, cwd=folder, env=given))
        return self.started[-1]

    def has_ended(self, handle):
        return handle.poll() is not None


class Here(Cluster):
    nodes = None

    def example(self):
        return "hydra.launcher.address=here"

    @contextmanager
    def connected(self):
        yield type(self).nodes


@pytest.fixture
def raws(compose_raw, tmp_path):
    from tests.conftest import TINY

    fixed = (
        "model=dense", "size=1", "budget=1e9", "sweep=s", "trainer.n_threads=1", *TINY,
        f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    return [compose_raw(*fixed, f"seed={seed}") for seed in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_is_asked_for(kind, raws):
    with pytest.raises(ValueError, match=r"hydra\.launcher\.address is not set"):
        run_sweep(raws, kind())


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named(kind, monkeypatch, raws, tmp_path):
    for package in ("distributed", "ray"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"launcher={kind.name()} needs .*\[{kind.name()}\]"):
        run_sweep(raws, kind(address="127.0.0.1:1"))
    assert not (tmp_path / "results" / "s").exists()


def test_workers_of_a_cluster_do_all_points_though_one_is_killed(raws, tmp_path, monkeypatch):
    """The first two end at once; one that runs is killed."""
    monkeypatch.setattr(_cluster, "_POLL", 0.1)
    Here.nodes = nodes = Threads(fails=2)
    sweep = tmp_path / "results" / "s"

    def kill():
        while not [*sweep.glob("*/events.jsonl")]:
            time.sleep(0.05)
        os.kill(nodes.started[2].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    losses = run_sweep(raws, Here(address="here"))
    thread.join()
    assert all(loss > 0 for loss in losses)
    assert {point.state for point in read_states(sweep)} == {"done"}
    assert all(read_events(path)[-1]["event"] == "done" for path in sweep.glob("[0-9a-f]*"))
    assert len(nodes.started) > 4
    for process in nodes.started:
        process.wait(30)


def test_a_point_that_another_command_withdraws_is_waited_for(raws, tmp_path, monkeypatch):
    """Two commands give one sweep; the first is interrupted and withdraws what it had given."""
    monkeypatch.setattr(_cluster, "_POLL", 0.1)
    sweep, started = tmp_path / "results" / "s", []

    class Late(Threads):
        def start(self, sweep_dir, folder, environment):
            if not started:  # as the other command's close() does, before any worker
                for run_id in _waiting.find(sweep):
                    _waiting.take_out(sweep, run_id)
            started.append(sweep_dir)
            return super().start(sweep_dir, folder, environment)

    Here.nodes = Late()
    losses = run_sweep(raws, Here(address="here"))
    assert all(loss > 0 for loss in losses)
    assert {point.state for point in read_states(sweep)} == {"done"}
    for process in Here.nodes.started:
        process.wait(30)
    assert _waiting.find(sweep) == set()  # the last worker may end after the command


def test_workers_that_do_nothing_end_the_command(raws, tmp_path, monkeypatch):
    monkeypatch.setattr(_cluster, "_POLL", 0.01)
    Here.nodes = Threads(fails=99)
    with pytest.raises(RuntimeError, match="one after another, and 3 points are left"):
        run_sweep(raws, Here(address="here"))
    assert {point.state for point in read_states(tmp_path / "results" / "s")} == {"waiting"}


def test_points_of_a_command_that_is_gone_wait_for_nobody(tmp_path):
    """Those that were left to workers wait for these."""
    _waiting.put(tmp_path, ["aa", "bb"])
    assert not Workers.tasks(tmp_path)
    assert Workers.waiting(tmp_path) == {"aa", "bb"}
    with controlling(tmp_path):
        assert Workers.tasks(tmp_path).keys() == {"aa", "bb"}
    given = Submission(name="1", run_ids=("bb",), code="", devices=1, num_nodes=1, resources={})
    submission.write(tmp_path / _waiting.FOLDER, given)
    assert Workers.tasks(tmp_path).keys() == {"bb"}


def test_the_same_command_goes_on_where_all_of_a_cluster_was_killed(raws, tmp_path, monkeypatch):
    monkeypatch.setattr(_cluster, "_POLL", 0.1)
    Here.nodes = Threads()
    sweep = tmp_path / "results" / "s"
    _waiting.put(sweep, [point.run_id for point in plan_points(raws)])  # it had come so far
    assert all(loss > 0 for loss in run_sweep(raws, Here(address="here")))
    for process in Here.nodes.started:
        process.wait(30)
    assert not _waiting.find(sweep)


@pytest.mark.filterwarnings("ignore")  # Dask's own, of sockets and ports
def test_a_dask_cluster_of_two_nodes(raws, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True
    ) as cluster:
        losses = run_sweep(raws, Dask(address=cluster.scheduler_address))
    assert len(losses) == 3
    assert {point.state for point in read_states(tmp_path / "results" / "s")} == {"done"}


def test_work_gives_the_worker_s_exit_code(tmp_path, monkeypatch):
    assert work(str(tmp_path / "none"), str(tmp_path), {}) == 2
