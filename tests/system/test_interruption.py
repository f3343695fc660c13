"""Signals at a process's end: what it puts in order then is not broken off."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments.system import interruption
from experiments.system.processes import identity
from tests.conftest import python

# Python calls what is registered before its exit; torch's libraries are undone there.
PROGRAM = """
import atexit, os, signal
from experiments.system.command import exit_codes
from experiments.system import interruption

interruption.listen()

def put_in_order():
    os.kill(os.getpid(), signal.{late})
    print("in order")

atexit.register(put_in_order)
with exit_codes():
    {outcome}
"""


def run(outcome: str, late: str) -> subprocess.CompletedProcess[str]:
    return python("-c", PROGRAM.format(outcome=outcome, late=late))


@pytest.mark.parametrize("late", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
@pytest.mark.parametrize(
    ("outcome", "code"),
    [("pass", 0), ("raise ValueError('n')", 2), ("os.kill(os.getpid(), signal.SIGTERM)", 130)],
)
def test_a_signal_after_the_outcome_changes_nothing(outcome, code, late):
    ended = run(outcome, late)
    assert (ended.returncode, ended.stdout) == (code, "in order\n"), ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("late", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_while_python_finalizes_changes_nothing(late):
    """Python has put handlers back by then, and undoes modules."""
    outcome = f"""class Late:
        def __del__(self, kill=os.kill, own=os.getpid(), number=signal.{late}):
            kill(own, number)
    late = Late()
    raise KeyboardInterrupt"""
    ended = run(outcome, late)
    assert (ended.returncode, ended.stdout) == (130, "in order\n"), ended.stderr
    assert ended.stderr == "interrupted\n"


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    ended = run("os.kill(os.getpid(), signal.SIGTERM)", "SIGINT")
    assert ended.returncode == 130
    assert ended.stdout == ""


def test_a_new_run_of_the_same_process_listens_to_them():
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.forget()  # of what a test before this one was told
    try:
        interruption.listen()
        interruption.ending()
        signal.raise_signal(signal.SIGTERM)
        interruption.listen()
        with pytest.raises(interruption.Interrupted, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        interruption.forget()


def interrupted_as(error):
    """As torch.asarray does while it asks a storage for its first item."""
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        if error is not None:
            raise error from None


@pytest.mark.parametrize("error", [ValueError("no length"), None])
def test_an_interruption_that_a_library_turns_into_an_error_stays_one(error):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruption.heard():
        interrupted_as(error)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="their own"), interruption.heard():
        raise ValueError("their own")


FINALIZER = """
import os, signal, time
from experiments.system.command import exit_codes
from experiments.system import interruption

interruption.listen()

class Resource:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

with exit_codes():
    Resource()
    time.sleep(20)
    print("missed")
"""


def test_an_interruption_in_a_finalizer_comes_after_it():
    """Python drops what is raised there, and would print a traceback and go on."""
    ended = python("-c", FINALIZER)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert "Traceback" not in ended.stderr


FOREIGN = """
import random, sys
from pathlib import Path
from experiments.data.tokenizer import train_bpe
from experiments.data.wheels import fetch_wheel
from experiments.kernels.build import load
from experiments.system.command import exit_codes
from experiments.system import interruption

interruption.listen()
letters = random.Random(0)
words = ("".join(letters.choices("abcdefghijklmnop", k=60)) for _ in range(400_000))
with exit_codes(), interruption.told(lambda error: print(error, flush=True)):
    {work}
"""
WORK = {
    "a tokenizer": "print(flush=True); train_bpe(words, 60_000)",
    "a compiler": "load()",  # which says so itself
    "a download": "print(flush=True); fetch_wheel('text==1', '0' * 64, Path(sys.argv[1]))",
}


@pytest.mark.parametrize("what", WORK)
def test_a_signal_ends_what_foreign_code_has_within_seconds(tmp_path, monkeypatch, what):
    """A tokenizer that would train for minutes, a compiler and a server that never answer."""
    compiler = tmp_path / "c++"
    wait = f"echo; echo $$ >> {tmp_path}/pids; exec sleep 600 > /dev/null"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ {wait} 1>&2; }}\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("EXPERIMENTS_KERNEL_CACHE", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.getsockname()[1]}/")
        command = [sys.executable, "-c", FOREIGN.format(work=WORK[what]), str(tmp_path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout is not None
        if what == "a compiler":
            while not (tmp_path / "pids").exists():
                time.sleep(0.05)
        else:
            process.stdout.readline()
        time.sleep(1.0)
        start = time.monotonic()
        process.terminate()
        out, _ = process.communicate(timeout=120)
    assert time.monotonic() - start < 10
    assert (process.returncode, out) == (130, "SIGTERM\n")
    for pid in (tmp_path / "pids").read_text().split() if what == "a compiler" else ():
        assert identity(int(pid)).start is None  # nobody is left
