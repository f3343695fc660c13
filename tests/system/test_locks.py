"""Locks: of two one has it, who asks disturbs nobody, and without flock there is one warning."""

import fcntl
import os
import subprocess
import sys
import warnings

import pytest

from experiments.sweep.manifest import submitting
from experiments.system import locks
from experiments.system.claims import RunLostError, RunningElsewhereError, claimed, is_claimed
from experiments.system.made_once import locked
from tests.conftest import REPOSITORY

POLLER = """
import sys
from pathlib import Path
from experiments.system.claims import is_claimed
print("asking", flush=True)
while True:
    is_claimed(Path(sys.argv[1]))
"""


@pytest.fixture
def poller(tmp_path):
    """Two processes that ask without pause whether tmp_path/run is held."""
    run_dir = tmp_path / "run"
    with claimed(run_dir):
        pass
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    command = [sys.executable, "-c", POLLER, str(run_dir)]
    asking = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    for process in asking:
        process.stdout.readline()
    yield run_dir
    for process in asking:
        process.kill()
        process.communicate()


def test_who_asks_refuses_no_claim(poller):
    for _ in range(200):
        with claimed(poller):
            pass


def test_who_holds_is_named(tmp_path):
    with claimed(tmp_path):
        assert is_claimed(tmp_path)
        who = rf"is being run by \S+ pid {os.getpid()}"
        with pytest.raises(RunningElsewhereError, match=who), claimed(tmp_path):
            pass
    assert not is_claimed(tmp_path)


def test_asking_makes_no_file(tmp_path):
    assert not is_claimed(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_flock(monkeypatch):
    def refuse(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())


@pytest.mark.usefixtures("no_flock")
def test_without_flock_a_sweep_warns_once_and_works(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with submitting(tmp_path), locked(tmp_path / "cache"), claimed(tmp_path / "run") as claim:
            claim.check()
            assert is_claimed(tmp_path / "run")
        assert not is_claimed(tmp_path / "run")
    assert [str(w.message).partition(": on this")[0] for w in caught] == [
        f"{tmp_path}/.claim can't be locked (No locks available)"
    ]


def change_deleted(run_dir):
    (run_dir / ".claim").unlink()


def change_taken(run_dir):
    change_deleted(run_dir)
    (run_dir / ".claim").touch()


def change_moved(run_dir):
    run_dir.rename(run_dir.with_name("elsewhere"))


def change_replaced(run_dir):
    change_moved(run_dir)
    run_dir.write_text("a file")


@pytest.mark.parametrize("change", [change_deleted, change_taken, change_moved, change_replaced])
def test_a_claim_whose_file_is_gone_is_lost(tmp_path, change):
    run_dir = tmp_path / "run"
    with claimed(run_dir) as claim:
        claim.check()
        change(run_dir)
        with pytest.raises(RunLostError, match=r"was moved or removed, or its .claim deleted"):
            claim.check()
