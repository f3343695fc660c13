"""Runs in forked processes: the driver has imported everything once, so that a run costs a tenth.

What a fork must not meet: no thread and no parallel torch operation in the driver before.
"""

import ctypes
import functools
import importlib
import multiprocessing.util
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from experiments.points import point
from experiments.system import claims, environment

_PR_SET_PDEATHSIG = 1
_DEFAULT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
Body = Callable[[], None]


class HangError(Exception):
    """A process did not end in its time."""


class Process:
    """A forked process in a session of its own. code is what it ended with; -9 if killed by 9."""

    def __init__(self, body: Body, output: Path, environ: dict[str, str] | None = None) -> None:
        self.output, self.code = output, None
        self.start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live(body, output, environ or {})

    code: int | None

    def poll(self) -> int | None:
        """Its exit code, or None while it lives."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises HangError, after killing it, if it takes longer."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill_session()
                raise HangError(f"pid {self.pid} had not ended after {seconds:.0f} s")
            time.sleep(0.005)
        return code

    def lives_for(self, seconds: float) -> bool:
        """Waits so long, or until it ends; whether it still lives then."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(min(0.005, max(0.0, deadline - time.monotonic())))
        return self.poll() is None

    def send(self, number: int) -> bool:
        """Sends a signal; whether it was alive to get it."""
        if self.poll() is not None:
            return False
        os.kill(self.pid, number)
        return True

    def children(self) -> list[int]:
        """Processes that it has forked, those that ended left out."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [pid for pid in map(int, text.split()) if alive(pid)]

    def kill_session(self) -> None:
        """Kills it and what it has started, and takes its exit code."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _live(body: Body, output: Path, environ: dict[str, str]) -> None:
    """Child's whole life; never returns."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in _DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        output.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.update(environ)
        body()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            multiprocessing.util._exit_function()  # as at Python's own end: children are joined
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def free_port() -> int:
    """A port for this process alone: two launchers that ask the system may be given the same."""
    first, n = 20000, 12000  # below those that the system gives out
    for i in range(n):
        port = first + (os.getpid() + 97 * i) % n
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {first} to {first + n} is free")


def warm_up() -> None:
    """Imports all that a run imports, and keeps what takes long to find out and is compared with
    nothing: packages, git's state, the machine's speed.
    """
    for name in (
        "lightning.pytorch",
        "experiments.training.execute",
        "experiments.sweep.workers",
        "optuna",
    ):
        importlib.import_module(name)
    torch.set_num_threads(1)
    claims.BEAT, claims.LEASE = 0.5, 6.0  # seconds that a trial has
    point.measured_peak_flops = lambda *_, **__: 1e9
    for name in ("installed_packages", "git_state", "git_diff"):
        setattr(environment, name, functools.cache(getattr(environment, name)))
    environment.snapshot_environment("cpu", Path(environment.__file__).parent)


def call(function: Callable[..., Any], *arguments: Any) -> Body:
    """A body that calls a function as a command does: its errors become exit codes."""

    def body() -> None:
        from experiments.system.command import exit_codes

        with exit_codes():
            function(*arguments)

    return body
