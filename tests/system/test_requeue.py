"""What is tried again, how often, and which job of Slurm is requeued."""

import os
import signal
import time

import pytest

from experiments.sweep import task
from experiments.sweep.queue import own_job, requeue_point
from experiments.system import interruption
from experiments.system.claims import read_events
from experiments.system.requeue import try_again


def checkpoint(run_dir, n):
    path = run_dir / "last.ckpt"
    path.touch()
    os.utime(path, ns=(n, n))


def kinds(run_dir):
    return [e["event"] for e in read_events(run_dir)]


def test_a_point_is_tried_again_as_often_as_allowed_from_one_checkpoint(tmp_path):
    def tried():
        return try_again(tmp_path, 2, "tried again", "killed")

    assert [tried(), tried(), tried()] == [True, True, False]
    assert kinds(tmp_path) == ["tried again", "tried again", "given up"]
    assert read_events(tmp_path)[-1]["why"] == "killed; no new checkpoint in 3 tries"
    assert [tried(), tried(), tried()] == [True, True, False]  # somebody asked again
    assert tried()
    checkpoint(tmp_path, 1)  # progress: the count starts at 0
    assert [tried(), tried()] == [True, True]
    checkpoint(tmp_path, 2)
    assert [tried(), tried(), tried()] == [True, True, False]


def test_none_is_none(tmp_path):
    assert not try_again(tmp_path, 0, "requeued", "time limit")
    assert kinds(tmp_path) == ["given up"]


@pytest.fixture
def scontrol(programs, tmp_path, monkeypatch):
    """A scontrol that keeps what it was asked; calls() lists it. In task 3 of array 28."""
    log = tmp_path / "asked"
    programs(scontrol=f'echo "$@" >>{log}')
    for name, value in {
        "SLURM_JOB_ID": "28", "SLURM_ARRAY_JOB_ID": "28", "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_END_TIME": f"{time.time() + 100:.0f}",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return lambda: log.read_text().splitlines() if log.exists() else []


def test_a_task_requeues_itself_and_not_its_array(scontrol):
    assert own_job().requeue()
    assert scontrol() == ["requeue 28_1"]


@pytest.mark.parametrize(
    ("name", "seconds", "answer"),
    [
        ("SIGUSR1", 100, True),
        ("SIGUSR1", 10_000, False),  # sent by hand, or by a preemption
        ("SIGTERM", 100, False),  # scancel, cancel, preemption
        ("SIGINT", 100, False),
        ("SIGUSR2", 100, False),
        (None, 100, False),
    ],
)
def test_only_the_signal_of_the_time_limit_counts(monkeypatch, name, seconds, answer):
    assert own_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "28")
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{time.time() + seconds:.0f}")
    assert own_job().at_time_limit(name) == answer
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    assert not own_job().at_time_limit(name)


def test_the_lead_is_the_one_that_was_asked_for(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "28")
    monkeypatch.setenv("SLURM_JOB_END_TIME", f"{time.time() + 500:.0f}")
    assert not own_job().at_time_limit("SIGUSR1")
    monkeypatch.setenv("EXPERIMENTS_SIGNAL_SECONDS", "600")
    assert own_job().at_time_limit("SIGUSR1")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ([signal.SIGUSR1, signal.SIGTERM], "SIGTERM"),  # scancel while it saves
        ([signal.SIGTERM, signal.SIGUSR1], "SIGTERM"),
        ([signal.SIGUSR2, signal.SIGUSR1], "SIGUSR1"),
    ],
)
def test_an_end_that_was_asked_for_is_not_forgotten(sent, kept):
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.forget()
    try:
        interruption.listen()
        with interruption.deferred():
            for number in sent:
                os.kill(os.getpid(), number)
        assert interruption.received() == kept
    finally:
        interruption.forget()
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def early(tmp_path, monkeypatch):
    """A task that is stopped while it imports; returns its exit code."""
    folder = tmp_path / "sweep" / "slurm"
    folder.mkdir(parents=True)
    (folder / "now.json").write_text('{"run_ids": ["aa", "bb"], "max_retries": 1}')

    def stop(name, submission="now"):
        monkeypatch.setattr(interruption, "received", lambda: name)
        monkeypatch.setattr("sys.argv", ["task", str(folder / f"{submission}.json"), "1"])
        return task._stopped_early(KeyboardInterrupt(name))

    return stop


def test_a_start_that_never_comes_to_training_is_not_requeued_for_ever(early, scontrol, tmp_path):
    assert [early("SIGUSR1"), early("SIGUSR1")] == [75, 1]
    assert scontrol() == ["requeue 28_1"]
    assert kinds(tmp_path / "sweep" / "bb") == ["requeued", "given up"]


def test_a_start_that_is_cancelled_is_not_requeued(early, scontrol):
    assert early("SIGTERM") == 75
    assert scontrol() == []


def test_slurms_count_serves_where_the_point_is_not_known(early, scontrol, monkeypatch):
    for restarts in ("", "1", "2", "3"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        early("SIGUSR1", "absent")
    assert scontrol() == ["requeue 28_1"] * 2


def test_a_missing_scontrol_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    assert not requeue_point(own_job(), tmp_path, 2, "time limit")
    assert capsys.readouterr().err.startswith("scontrol requeue 5: ")
