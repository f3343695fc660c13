"""Workers of one sweep: each point once, whatever is killed; and what they leave alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress

import pytest

from experiments import cancel, retry, status, work
from experiments.records.files import read_record
from experiments.sweep import manifest, working
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queue import Outcome
from experiments.sweep.queues import _waiting
from experiments.sweep.queues.workers import Workers
from experiments.sweep.states import read_states
from experiments.sweep.working import Worker
from experiments.system.claims import claimed, log_event, read_events
from tests.conftest import REPOSITORY

PATIENCE = 600  # seconds, on a machine that does much else
LONG = ("budget=2e10", "trainer.checkpoint_minutes=1e-3")


@pytest.fixture
def left(make, capsys):
    """left("seed=0", "seed=1"): points that a sweep leaves to workers."""

    def leave(*overrides, shared=()):
        points = [make(*shared, one) for one in overrides]
        run_sweep([point.raw for point in points], Workers())
        assert "wait for workers" in capsys.readouterr().out
        return points

    return leave


@pytest.fixture
def pool(monkeypatch):
    """Takes the processes' place: pool.ends(point) says how one ends, pool.ran has their seeds."""

    class Pool:
        ends: Callable = staticmethod(lambda point: Outcome(fate="done"))
        ran: list = []  # noqa: RUF012  # of this fixture alone
        expected: list = []  # noqa: RUF012
        slots = 1

        def submit(self, points, code, tasks):
            (self.point,) = points
            self.point.run_dir.mkdir(exist_ok=True)
            assert code.name in str(manifest.read(self.point.run_dir.parent)[self.point.run_id])
            self.ran.append(self.point.config.seed)

        def wait(self):
            self.outcome = self.ends(self.point)
            fate = self.outcome.fate
            if fate in ("done", "failed"):
                log_event(self.point.run_dir, fate)
            return True

        def outcomes(self, tasks):
            return {self.point.run_id: self.outcome}

        def room(self, n_running):
            return self.slots

        def expect(self, n_points, flops):
            self.expected.append((n_points, flops))

        def say(self, line):
            print(line)

    @contextmanager
    def session(self, what, planned):
        yield made

    made = Pool()
    monkeypatch.setattr(working.Local, "session", session)
    monkeypatch.setattr(working, "_WAIT", 0.01)
    return made


def test_each_point_is_taken_once_the_long_ones_first(left, pool, sweep):
    one, two = left("seed=1", "seed=2"), left("seed=3", shared=("budget=2e9",))
    assert Worker(sweep).work() == 0
    assert pool.ran == [3, 1, 2]
    flops = [point.own_flops for point in (*two, *one)]
    assert pool.expected == [(3, sum(flops)), (2, sum(flops[1:])), (1, flops[2])]
    assert _waiting.find(sweep) == set()
    assert Worker(sweep).work() == 0
    assert pool.ran == [3, 1, 2]


def test_it_ends_after_as_many_as_were_asked_for(left, pool, sweep):
    left("seed=1", "seed=2", "seed=3")
    assert Worker(sweep, most=2).work() == 0
    assert (pool.ran, len(_waiting.find(sweep))) == ([1, 2], 1)
    assert [n for n, _ in pool.expected] == [2, 1]


def test_what_others_have_is_passed_over_and_the_rest_is_shared(left, pool, sweep):
    points = left("seed=1", "seed=2", "seed=3", "seed=4")
    with claimed(points[0].run_dir):
        assert Worker(sweep).work() == 0
    assert pool.ran == [2, 3, 4]
    assert [n for n, _ in pool.expected] == [2, 2, 1]  # of two workers
    assert _waiting.find(sweep) == {points[0].run_id}


def test_one_that_stays_takes_what_others_leave(left, pool, sweep, capsys):
    points = left("seed=1", "seed=2")
    other = claimed(points[1].run_dir)
    other.__enter__()

    def sleep(seconds):
        other.__exit__(None, None, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(working.time, "sleep", sleep)
        assert Worker(sweep, stays=True).work() == 0
    assert pool.ran == [1, 2]
    assert "waits for 1 runs of other workers" in capsys.readouterr().out


def test_of_two_that_start_one_point_one_takes_another(left, pool, sweep):
    left("seed=1", "seed=2")
    found = iter(["elsewhere", "done", "done"])
    pool.ends = lambda point: Outcome(fate=next(found))
    assert Worker(sweep).work() == 0
    assert pool.ran[0] == 1
    assert sorted(pool.ran[1:]) == [1, 2]


def test_a_failed_point_is_tried_by_one_worker_until_somebody_retries(left, pool, sweep, command):
    points = left("seed=1", "seed=2")
    pool.ends = lambda point: Outcome(fate="failed" if point.config.seed == 1 else "done")
    assert Worker(sweep).work() == 1
    assert Worker(sweep).work() == 0
    assert pool.ran == [1, 2]
    # to workers again, where it ran last
    assert command(retry, sweep, "--run", points[0].run_id)[0] == 0
    pool.ends = lambda point: Outcome(fate="done")
    assert Worker(sweep).work() == 0
    assert pool.ran == [1, 2, 1]


def test_a_worker_killed_between_a_failure_and_its_note_leaves_nothing_to_try(left, pool, sweep):
    (point,) = left("seed=1")
    point.run_dir.mkdir()
    log_event(point.run_dir, "failed")
    assert Workers.tasks(sweep) == {}
    assert Worker(sweep).work() == 0
    assert (pool.ran, _waiting.find(sweep)) == ([], set())


def test_a_point_that_kills_its_workers_is_given_up(left, pool, sweep, capsys):
    (point,) = left("seed=1", shared=("trainer.max_retries=2",))

    def killed(point):
        log_event(point.run_dir, "started")
        raise InterruptedError

    pool.ends = killed
    for _ in range(3):
        with pytest.raises(InterruptedError):
            Worker(sweep).work()
    assert Worker(sweep).work() == 0
    assert pool.ran == [1, 1, 1]
    assert "again without a new checkpoint: given up" in capsys.readouterr().out
    assert [e["event"] for e in read_events(point.run_dir)][-1] == "given up"
    assert _waiting.find(sweep) == set()


def test_what_has_no_room_here_is_left_and_said(left, pool, sweep, monkeypatch, capsys):
    points = left("seed=1", "seed=2")
    check = working.Local.check

    def small(self, given, n):
        check(self, given, n)
        if given[0].config.seed == 1:
            raise ValueError("needs 99 GiB")

    monkeypatch.setattr(working.Local, "check", small)
    with pytest.raises(ValueError, match="1 points can't be run here: see the lines above"):
        Worker(sweep).work()
    assert pool.ran == [2]
    assert "seed=1 can't be run here: needs 99 GiB\n" in capsys.readouterr().err
    assert _waiting.find(sweep) == {points[0].run_id}


def test_without_a_card_that_computes_a_worker_ends_and_leaves_its_point(left, pool, sweep):
    left("seed=1", "seed=2")
    pool.slots = 0
    pool.ends = lambda point: Outcome(fate="failed", why="not run: no GPU")
    with pytest.raises(RuntimeError, match="no GPU"):
        Worker(sweep).work()
    assert len(_waiting.find(sweep)) == 2


def test_a_worker_of_other_code_says_so_in_the_manifest(left, pool, sweep):
    left("seed=1")
    (entry,) = manifest.read(sweep).values()
    label = f"{entry.label} lr=0.1"
    other = {**vars(entry), "code": "0123456789ab", "label": label}
    other.pop("line")
    manifest.add(sweep, [manifest.Entry(**other)])
    assert Worker(sweep).work() == 0
    (again,) = manifest.read(sweep).values()
    assert (again.code, again.label) == (entry.code, label)
    assert again.line == 3


def test_branches_wait_for_a_trunk_that_another_has(left, pool, sweep, make, capsys):
    wsd = ("optim.schedule=wsd", "optim.warmup_tokens=640", "optim.branch_from=trunk")
    points = left("budget=4e9", "budget=8e9", shared=wsd)
    trunk = points[0].branch.folder
    assert len(_waiting.find(sweep)) == 3
    ran = []

    def ends(point):
        ran.append(point.is_trunk)
        return Outcome(fate="failed" if point.is_trunk else "done")

    pool.ends = ends
    with claimed(trunk), pytest.MonkeyPatch.context() as patch:
        patch.setattr(working.time, "sleep", _raise)
        with pytest.raises(InterruptedError):
            Worker(sweep).work()
    assert ran == []
    assert Worker(sweep).work() == 1
    assert ran == [True]
    assert capsys.readouterr().out.count("not run: its trunk") == 2


def _raise(seconds):
    raise InterruptedError


def test_a_sweep_that_has_nothing_for_workers_says_why(left, sweep, command, tmp_path):
    points = left("seed=1", "seed=2")
    code, out, err = command(cancel, sweep)
    assert (code, err) == (0, "")
    assert out.startswith("2 workers tasks and 0 local sweeps were asked to end\n")
    assert [p.state for p in read_states(sweep)] == ["waiting", "waiting"]
    code, out, err = command(work, sweep)
    assert (code, err) == (0, "")
    remedy = f"python -m experiments.retry {sweep} leaves them what is not done"
    assert out == f"no run of {sweep} waits for a worker: 2 waiting; {remedy}\n"
    assert command(retry, sweep, "--run", points[0].run_id)[0] == 0
    assert [p.state for p in read_states(sweep)] == ["queued", "waiting"]


def test_a_point_that_ended_after_its_worker_was_killed_waits_no_more(left, sweep, command):
    (point,) = left("seed=1")
    point.run_dir.mkdir()
    log_event(point.run_dir, "done")
    assert command(work, sweep)[0] == 0
    assert _waiting.find(sweep) == set()


def test_what_is_no_work_is_one_line(sweep, make, command, tmp_path):
    manifest.add(sweep, [manifest.make_entry(make("seed=1"), None)])
    for words, message in [
        ([sweep], f"error: {sweep} was not left to workers; python -m experiments.retry {sweep} "),
        (["none", "--results", sweep.parent], "error: no sweep 'none' in "),
        ([tmp_path], f"error: no sweep '{tmp_path}' in "),
        ([sweep, "--max", "0"], "error: argument --max: 0 must be at least 1"),
        ([sweep, "--max", "x"], "error: argument --max: 'x' is not a whole number"),
    ]:
        code, out, err = command(work, *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(message)
    assert command(retry, sweep, "--to-workers")[0] == 0
    assert [p.state for p in read_states(sweep)] == ["queued"]


@contextmanager
def workers(sweep, n=1, *words):
    """So many, as a shell starts them, each in a session of its own."""
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.work", str(sweep), *words], cwd=sweep.parent,
            env={**os.environ, "PYTHONPATH": path}, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(n)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for one in started:
            _kill(one)
            one.communicate()


def _kill(process):
    """It and all that it has started, as when its machine is lost."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while True:  # until the system has let go of what they held
            os.killpg(process.pid, 0)
            time.sleep(0.02)


def _first_checkpoint(sweep, process):
    while not (found := list(sweep.glob("*/last.ckpt"))):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found[0].parent


def _steps(run_dir):
    lines = (run_dir / "history.csv").read_text().splitlines()[1:]
    return [int(line.split(",")[0]) for line in lines]


def test_two_workers_do_all_points_once_and_the_data_once(left, sweep, command):
    left("seed=1", "seed=2", "seed=3", "seed=4")
    with workers(sweep, 2) as both:
        ends = [one.communicate(timeout=PATIENCE) for one in both]
    assert [one.returncode for one in both] == [0, 0], ends
    runs = sorted(sweep.glob("*/record.json"))
    assert [read_record(path).status for path in runs] == 4 * ["done"]
    for path in runs:
        assert [e["event"] for e in read_events(path.parent)] == ["started", "done"]
    said = "\n".join(out for out, _ in ends)
    assert said.count(": loss ") == 4
    assert "preparing" not in said  # by the command that left them
    assert "4 done" in command(status, sweep)[1]


def test_what_a_killed_worker_had_goes_on_from_its_checkpoint(left, sweep):
    left("seed=1", "seed=2", shared=LONG)
    with workers(sweep) as (lost,):
        run_dir = _first_checkpoint(sweep, lost)
        _kill(lost)
    assert {p.state for p in read_states(sweep)} == {"queued"}
    with workers(sweep) as (other,):
        out, err = other.communicate(timeout=PATIENCE)
    assert other.returncode == 0, err
    assert "this worker: 2 done" in out
    events = [e["event"] for e in read_events(run_dir)]
    assert events == ["started", "tried again", "started", "done"]
    record = read_record(run_dir / "record.json")
    assert _steps(run_dir) == sorted({*_steps(run_dir)})
    assert _steps(run_dir)[-1] == record.n_steps
    assert len(list(sweep.glob("*/record.json"))) == 2


def test_the_run_of_a_worker_that_alone_was_killed_ends_once(left, sweep):
    left("seed=1", shared=LONG)
    with workers(sweep) as (lost,):
        run_dir = _first_checkpoint(sweep, lost)
        os.kill(lost.pid, signal.SIGKILL)
        with workers(sweep, 1, "--wait") as (other,):
            _, err = other.communicate(timeout=PATIENCE)
        assert other.returncode == 0, err
    events = [e["event"] for e in read_events(run_dir)]
    assert events == ["started", "done"]
    assert read_record(run_dir / "record.json").status == "done"


def test_term_and_cancel_save_and_the_point_goes_on_later(left, sweep, command):
    (point,) = left("seed=1", shared=LONG)
    with workers(sweep) as (one,):
        _first_checkpoint(sweep, one)
        one.terminate()
        _, err = one.communicate(timeout=PATIENCE)
    assert (one.returncode, "Traceback" in err) == (130, False), err
    assert read_events(point.run_dir)[-1]["event"] == "interrupted"
    assert [p.state for p in read_states(sweep)] == ["queued"]
    with workers(sweep) as (one,):
        while len(read_events(point.run_dir)) < 3:
            assert one.poll() is None, one.communicate()
            time.sleep(0.02)
        command(cancel, sweep)  # of any machine: no process is asked
        _, err = one.communicate(timeout=PATIENCE)
    assert (one.returncode, "Traceback" in err) == (130, False), err
    assert f"{sweep} was cancelled; its run saves and ends" in err
    assert [p.state for p in read_states(sweep)] == ["interrupted"]
    assert command(retry, sweep)[0] == 0
    with workers(sweep) as (one,):
        _, err = one.communicate(timeout=PATIENCE)
    assert one.returncode == 0, err
    record = read_record(point.run_dir / "record.json")
    assert (record.status, _steps(point.run_dir)[-1]) == ("done", record.n_steps)
