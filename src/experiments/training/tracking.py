"""Weights & Biases, as a guest: no key, no network or no disk for it never stops a run.

W&B's calls wait for a process of its own, without a limit if that is stopped or stuck. So they run
in a thread of their own, and training waits for them at the start and the end only, for a time.
"""

import netrc
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.config.schema import Logger

_NETWORK_TIMEOUT = 2.0  # seconds
_INIT_TIMEOUT = 30.0  # seconds W&B itself gives a server to answer
_START_PATIENCE = 45.0  # seconds until a start that hangs is given up
_CALL_PATIENCE = 60.0  # seconds until a row that hangs ends the logging
_FINISH_PATIENCE = 120.0  # seconds for the rest of the rows; online it is uploaded
_CLEANUP_PATIENCE = 5.0  # seconds
_FULL = 8192  # bytes free, below which W&B's file has likely lost rows
_TAG_LENGTH = 64  # characters; W&B refuses a run with a longer tag

Action = Callable[[], None]


class WandbRun:
    """One W&B run. The first error or hang ends the logging, with a warning, never the training.

    Its group is the sweep, its job type the model, its id the run's own. Online, a run that goes
    on after an interruption goes on in W&B too (resume="allow"). Offline, each process of the run
    leaves a folder offline-run-<time>-<run_id> of the rows that it trained; `wandb sync` uploads
    them to one run in order of their times, and how well it joins them depends on W&B's version
    (its issues #2423, #3841, #5865). Rows are on the axis n_tokens, so that none lands at a wrong
    place; the whole history in any case is the run's history.csv.

    A full disk is not reported by W&B: finish() warns where there is no space left.
    """

    def __init__(
        self,
        settings: Logger,
        *,
        run_id: str,
        sweep: str,
        model: str,
        folder: Path,
        config: Mapping[str, Any],
    ) -> None:
        self._lane: _Lane | None = None
        self._run: Any = None
        self._service: subprocess.Popen[bytes] | None = None
        self._folder = folder
        mode = resolve_mode(settings.wandb)
        if mode == "disabled":
            return

        def start() -> None:
            import wandb  # slow to import, and not needed where it is disabled

            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                id=run_id,
                name=f"{model}-{run_id}",
                group=sweep,
                job_type=model,
                tags=tags_of(config),
                dir=str(folder),
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]  # wandb's Literal; resolve_mode keeps to it
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off", init_timeout=_INIT_TIMEOUT),
            )
            self._service = _service_process()
            self._run.define_metric("n_tokens")
            self._run.define_metric("*", step_metric="n_tokens")

        self._lane = _Lane()
        self._wait_for(start, _START_PATIENCE)

    def log(self, row: Mapping[str, float]) -> None:
        """Logs a row of numbers; it holds n_tokens, the axis. Waits for nothing."""
        if self._lane is None:
            return
        values = dict(row)
        if self._lane.error is not None:
            self._stop(repr(self._lane.error))
        elif self._lane.busy_seconds() > _CALL_PATIENCE:
            self._stop(f"no answer for {_CALL_PATIENCE:g} s")
        else:
            self._lane.put(lambda: self._run.log(values))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary and ends the run, so that the next one is not logged into it."""
        values = dict(summary)

        def end() -> None:
            import wandb

            self._run.summary.update(values)
            # only tells W&B's own process to close the file
            self._run.finish(exit_code=int(values.get("status") == "failed"))
            wandb.teardown()  # waits until it has: a worker that ends first could lose the rest

        lane = self._lane
        if lane is None:
            return
        self._wait_for(end, _FINISH_PATIENCE)
        lane.close()
        self._lane = None
        files = self._folder / "wandb"
        if self._run is not None and files.is_dir() and shutil.disk_usage(files).free < _FULL:
            _warn(f"W&B's file lacks rows, for there is no space left in {files}")
        self._run = None

    def _wait_for(self, action: Action, seconds: float) -> None:
        assert self._lane is not None
        done = self._lane.put(action).wait(seconds)
        if self._lane.error is not None:
            self._stop(repr(self._lane.error))
        elif not done:
            self._stop(f"no answer for {seconds:g} s")

    def _stop(self, why: str) -> None:
        """Ends the logging and leaves nothing of W&B's that could hang at the program's end."""
        stuck = self._lane is not None and self._lane.busy_seconds() > 0
        if self._lane is not None:
            self._lane.close()
        self._lane = self._run = None
        service = self._service or (_service_process() if "wandb" in sys.modules else None)
        if stuck and service is not None:
            service.kill()
        cleanup = _Lane()
        cleaned = cleanup.put(_tear_down).wait(_CLEANUP_PATIENCE)
        if not cleaned and service is not None:
            service.kill()
        cleanup.close()
        _warn(f"W&B logging stopped: {why}; training goes on")


class _Lane:
    """A thread that makes calls one after the other, until the first that fails.

    A daemon, so a call that never returns does not keep the program from ending.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._calls: queue.SimpleQueue[tuple[Action, threading.Event] | None] = queue.SimpleQueue()
        self._since: float | None = None
        threading.Thread(target=self._work, name="wandb-calls", daemon=True).start()

    def put(self, action: Action) -> threading.Event:
        """Queues a call; the event is set when it has been made, or never will be."""
        done = threading.Event()
        self._calls.put((action, done))
        return done

    def close(self) -> None:
        """Ends the thread after the calls that are queued."""
        self._calls.put(None)

    def busy_seconds(self) -> float:
        """Seconds that the present call has taken; 0 between calls."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            action, done = call
            self._since = time.monotonic()
            try:
                if self.error is None:
                    action()
            except BaseException as error:  # W&B's teardown may raise SystemExit
                self.error = error
            self._since = None
            done.set()


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _service_process() -> subprocess.Popen[bytes] | None:
    """W&B's own process, found by private names; None where a version has others."""
    from wandb.sdk import wandb_setup

    node: Any = wandb_setup
    for name in ("_singleton", "_connection", "_proc", "_process"):
        node = getattr(node, name, None)
    return node if isinstance(node, subprocess.Popen) else None


def _tear_down() -> None:
    """Forgets W&B's process, whose absence would else be a traceback at the program's end."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """A resolved config's tags: ladder, data, size, n_experts and budget, as far as it has them.

    data is the last part of the corpus's path (c4), else the corpus's class (WikiText2).
    """
    data = config.get("data") or {}
    corpus = data.get("corpus") or {}
    values = {
        "ladder": (config.get("ladder") or {}).get("name"),
        "data": Path(data.get("path") or corpus.get("_target_", "").rpartition(".")[2]).name,
        "size": config.get("size"),
        "n_experts": config.get("n_experts"),
        "budget": config.get("budget"),
    }
    return [f"{k}={v}"[:_TAG_LENGTH] for k, v in values.items() if v not in (None, "")]


def resolve_mode(wanted: str) -> str:
    """auto: online if there is a key and the server answers, else offline. Never asks."""
    if wanted != "auto":
        return wanted
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return os.environ["WANDB_MODE"]
    return "online" if has_key() and _reachable() else "offline"


def has_key() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(_server()[0]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _reachable() -> bool:
    try:
        with socket.create_connection(_server(), timeout=_NETWORK_TIMEOUT):
            return True
    except OSError:
        return False


def _server() -> tuple[str, int]:
    url = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    return url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
