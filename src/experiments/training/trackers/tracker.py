"""A run's curves shown elsewhere, as a guest: nothing that goes wrong there stops a run.

Calls of such a package may wait without a limit: for a server, or for a process of its own. So a
child process makes them (owners/). It is told the rows, and is killed if it does not answer;
training waits for it at the end only, for a limited time.

A run that goes on takes the steps since its checkpoint again, and a process that was killed has
shown them. So each process of a run first tells the rows of its checkpoint, as history.csv has
them, and the tracker shows these in place of all that was before: one curve, each step once. Rows
are not kept back until a checkpoint holds them, for a curve is there to be watched.
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.system.disk import refuse_links_in, remove_tree
from experiments.training.guest import Guest

_PATIENCE = 120.0  # seconds without an answer that end the logging; online, the end uploads
_CLOSE_PATIENCE = 5.0  # seconds
_FULL = 8192  # bytes free, below which a file has likely lost rows
OWNERS = Path(__file__).parent / "owners"


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """Run whose curves are shown. folder: its own, claimed; config: as it was resolved."""

    run_id: str
    sweep: str
    model: str
    folder: Path
    config: Mapping[str, Any]


class TrackerConfig(Protocol):
    """One of conf/logger's `tools`."""

    def check(self) -> None:
        """Raises ValueError if it can't be had on this machine."""

    def start(self, run: TrackedRun) -> "Tracker":
        """Waits for nothing; what goes wrong is said by the first log() or finish() after it."""


class Tracker:
    """One run shown elsewhere. An error or hang ends it with a warning, never the training."""

    def __init__(
        self,
        name: str,
        owner: Path,
        init: Mapping[str, Any],
        *,
        folder: Path | None,
        environ: Mapping[str, str] | None = None,
        earlier: Iterable[Path] = (),
    ) -> None:
        """owner: script of the child process; init: what it is told first.

        folder: where it writes in the run's, if it does; through no link; a full disk is said.
        earlier: what processes before have left there, which begin() removes.
        """
        self._name, self._folder = name, folder
        self._earlier = list(earlier)  # now, before the child has files of its own
        self._guest: Guest | None = None
        try:
            if folder is not None:
                with suppress(OSError):  # it is not there yet
                    refuse_links_in(folder)
            self._guest = Guest(owner, environ or {})
        except RuntimeError as error:
            self._warn(str(error))
        except OSError as error:
            self._warn(repr(error))
        else:
            self._guest.tell({"init": init})

    def begin(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Shows these rows, and none that a process before has shown. Waits for nothing."""
        if self._guest is None:
            return
        self._guest.tell({"begin": {"rows": [dict(row) for row in rows]}})
        for path in self._earlier:
            remove_tree(path)
        if left := [path for path in self._earlier if os.path.lexists(path)]:
            self._stop(f"{left[0]}, an earlier curve of this run, can't be removed")

    def log(self, row: Mapping[str, float]) -> None:
        """Logs a row of numbers; it holds n_tokens, the axis. Waits for nothing."""
        if self._guest is None:
            return
        self._guest.tell({"log": dict(row)})
        if self._guest.error is not None:
            self._stop(self._guest.error)
        elif self._guest.silent_seconds() > _PATIENCE:
            self._stop(f"no answer for {_PATIENCE:g} s")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary and ends the run, once all its rows are on the disk, or uploaded."""
        guest = self._guest
        if guest is None:
            return
        exit_code = int(summary.get("status") == "failed")
        guest.tell({"finish": {"exit_code": exit_code, "summary": dict(summary)}})
        answered = guest.wait(_PATIENCE)
        if guest.error is not None:
            self._stop(guest.error)
        elif not answered:
            self._stop(f"no answer for {_PATIENCE:g} s")
        else:
            guest.close(_CLOSE_PATIENCE)
            self._guest = None
            files = self._folder
            if files is not None and files.is_dir() and shutil.disk_usage(files).free < _FULL:
                warnings.warn(
                    f"{self._name}'s file lacks rows, for there is no space left in {files}",
                    stacklevel=2,
                )

    def _stop(self, why: str) -> None:
        """Ends the logging, and every process of it."""
        assert self._guest is not None
        self._guest.kill()
        self._guest = None
        self._warn(why)

    def _warn(self, why: str) -> None:
        warnings.warn(f"{self._name} logging stopped: {why}; training goes on", stacklevel=4)
