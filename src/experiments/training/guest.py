"""A child process that is told things through a pipe, and that nothing here ever waits for unasked.

What it is told is a JSON object a line. It answers each by a line: an empty one, or what went
wrong, and then it ends. Standard library only.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.system.processes import started_by

# what ends this process is not for the child, and what the child starts: not Ctrl-C, which goes to
# a terminal's whole group, nor TERM, which a cluster sends to all processes of a job
_NOT_FOR_IT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
OWN_FOLDER = "EXPERIMENTS_GUEST_FOLDER"
_POLL = 0.02  # seconds
_CHUNK = 65536  # bytes


class Guest:
    """One such child, of a Python script.

    However this process ends, the child reads to the end of the pipe, and is to end then. It has a
    folder for temporary files, OWN_FOLDER in its environment. That is removed when the child is
    ended here, and is the child's to remove where nobody is left to do so.
    """

    def __init__(self, script: Path, environ: Mapping[str, str]) -> None:
        """environ: variables beside this process's own. Raises OSError."""
        self._folder = tempfile.mkdtemp(prefix="guest-")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_IT)  # a child inherits it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],  # -P: its folder's modules shadow no package
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env={**os.environ, **environ, "TMPDIR": self._folder, OWN_FOLDER: self._folder},
                start_new_session=True,
            )
        except OSError:
            self._remove_folder()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        for pipe in (self._to, self._from):
            os.set_blocking(pipe.fileno(), False)
        self._unsent, self._unread = bytearray(), b""
        self._n_unanswered, self._since = 0, 0.0
        self.error: str | None = None

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def tell(self, message: Mapping[str, Any]) -> None:
        """Sends it, or keeps it until the pipe has room."""
        self._unsent += json.dumps(message, default=_plain).encode() + b"\n"
        if not self._n_unanswered:
            self._since = time.monotonic()
        self._n_unanswered += 1
        self._exchange()

    def silent_seconds(self) -> float:
        """Seconds for which there has been something to answer, and no answer."""
        return time.monotonic() - self._since if self._n_unanswered else 0.0

    def wait(self, seconds: float) -> bool:
        """Waits until all is answered, or there is an error; whether it came to either."""
        end = time.monotonic() + seconds
        while self._n_unanswered and self.error is None:
            if time.monotonic() > end:
                return False
            time.sleep(_POLL)
            self._exchange()
        return True

    def close(self, seconds: float) -> None:
        """Tells it to end, by the end of the pipe; kills it if it has not so many seconds later."""
        self._to.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
        self._from.close()
        self._remove_folder()

    def kill(self) -> None:
        """Ends it and what it has started, which may be what hangs."""
        for pid in (*started_by(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._to.close()
        self._from.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _exchange(self) -> None:
        """Writes what the pipe takes and reads what has come."""
        with suppress(BlockingIOError):
            try:
                while self._unsent:
                    del self._unsent[: os.write(self._to.fileno(), self._unsent[:_CHUNK])]
            except BrokenPipeError:
                self._unsent.clear()  # it has ended, and may have said why
        ended = False
        with suppress(BlockingIOError):
            while text := os.read(self._from.fileno(), _CHUNK):
                self._unread += text
            ended = True
        *answers, self._unread = self._unread.split(b"\n")
        for answer in answers:
            self._n_unanswered -= 1
            self._since = time.monotonic()
            if answer and self.error is None:
                self.error = answer.decode(errors="replace")
        if ended and self._n_unanswered and self.error is None:
            self.error = f"its process ended with {self._process.wait()}"


def _plain(value: Any) -> Any:
    """NumPy's and torch's numbers as JSON's, which has no form for them, and others as text."""
    return value.item() if hasattr(value, "item") else str(value)
