"""Weights & Biases, as a guest: no key, no network or no disk for it never stops a run.

W&B's calls wait for a process of W&B's own, without a limit if that is stopped or stuck. So a child
process makes them (wandb_process.py). It is told the rows, and is killed if it does not answer;
training waits for it at the end only, for a limited time.
"""

import netrc
import os
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.config.schema import Logger
from experiments.data.hub import probe
from experiments.system.disk import refuse_links_in
from experiments.training.guest import Guest

_INIT_TIMEOUT = 30.0  # seconds W&B itself gives a server to answer
_PATIENCE = 120.0  # seconds without an answer that end the logging; online, the end uploads
_CLOSE_PATIENCE = 5.0  # seconds
_FULL = 8192  # bytes free, below which W&B's file has likely lost rows
_TAG_LENGTH = 64  # characters; W&B refuses a run with a longer tag
_OWNER = Path(__file__).with_name("wandb_process.py")


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
        """Waits for nothing; what goes wrong is said by the first log() or finish() after it."""
        self._guest: Guest | None = None
        self._folder = folder
        mode = resolve_mode(settings.wandb)
        if mode == "disabled":
            return
        init = {
            "project": settings.project,
            "entity": settings.entity,
            "id": run_id,
            "name": f"{model}-{run_id}",
            "group": sweep,
            "job_type": model,
            "tags": make_tags(config),
            "dir": str(folder.absolute()),
            "config": dict(config),
            "mode": mode,
            "resume": "allow" if mode == "online" else None,
            "program": sys.argv,
            "settings": {"silent": True, "console": "off", "init_timeout": _INIT_TIMEOUT},
        }
        try:
            with suppress(OSError):  # it is not there yet
                refuse_links_in(folder / "wandb")  # W&B writes there
        except RuntimeError as error:
            _warn(str(error))
            return
        try:
            # its system metrics are to be the training's
            self._guest = Guest(_OWNER, {"WANDB_X_STATS_PID": str(os.getpid())})
        except OSError as error:
            _warn(repr(error))
        else:
            self._guest.tell({"init": init})

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
            files = self._folder / "wandb"
            if files.is_dir() and shutil.disk_usage(files).free < _FULL:
                warnings.warn(
                    f"W&B's file lacks rows, for there is no space left in {files}", stacklevel=2
                )

    def _stop(self, why: str) -> None:
        """Ends the logging, and every process of it."""
        assert self._guest is not None
        self._guest.kill()
        self._guest = None
        _warn(why)


def _warn(why: str) -> None:
    warnings.warn(f"W&B logging stopped: {why}; training goes on", stacklevel=4)


def make_tags(config: Mapping[str, Any]) -> list[str]:
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
    return "online" if has_key() and _is_reachable() else "offline"


def has_key() -> bool:
    """Whether W&B would find a key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(urlsplit(_server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _is_reachable() -> bool:
    try:
        probe(_server())
    except ConnectionError:
        return False
    return True


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
