"""Weights & Biases, as a guest: no key, no network or no disk for it never stops a run."""

import netrc
import os
import socket
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.config import Logger

_NETWORK_TIMEOUT = 2.0  # seconds


class WandbRun:
    """One W&B run. The first error ends the logging, with a warning, and never the training."""

    def __init__(
        self, settings: Logger, *, run_id: str, sweep: str, model: str, folder: Path, config: Any
    ) -> None:
        self._run: Any = None
        if settings.wandb == "disabled":
            return
        mode = resolve_mode(settings.wandb)

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
                dir=str(folder),
                config=config,
                mode=mode,  # type: ignore[arg-type]  # wandb's Literal; resolve_mode keeps to it
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off", init_timeout=30),
            )
            self._run.define_metric("n_tokens")
            self._run.define_metric("*", step_metric="n_tokens")

        self._guarded(start)

    def log(self, row: Mapping[str, float]) -> None:
        """Logs a row of numbers; it holds n_tokens, the axis."""
        if self._run is not None:
            self._guarded(lambda: self._run.log(dict(row)))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Writes the summary and ends the run, so that the next one is not logged into it."""

        def end() -> None:
            import wandb

            self._run.summary.update(dict(summary))
            self._run.finish()  # only tells W&B's own process to close the file
            wandb.teardown()  # waits until it has: a worker that ends first could lose the rest

        if self._run is not None:
            self._guarded(end)
        self._run = None

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            warnings.warn(f"W&B logging stopped: {error!r}; training goes on", stacklevel=3)


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
