"""Weights & Biases: no key, no network or no disk for it never stops a run (tracker.py)."""

import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.config.schema import Logger
from experiments.data.hub import probe
from experiments.training.trackers.tracker import OWNERS, TrackedRun, Tracker

_INIT_TIMEOUT = 30.0  # seconds W&B itself gives a server to answer
_TAG_LENGTH = 64  # characters; W&B refuses a run with a longer tag


def start_wandb(settings: Logger, run: TrackedRun) -> Tracker | None:
    """One W&B run; None if it is disabled.

    Its group is the sweep, its job type the model, its id the run's own, a row's step the run's.
    Online, a run that goes on after an interruption goes on in W&B too (resume="allow"), and rows
    of steps that W&B has are not sent again: it can't take a row back. Offline, each process of the
    run makes a folder offline-run-<time>-<run_id> of the whole curve so far, and the folders of
    processes before go: how well `wandb sync` joins several depends on W&B's version (its issues
    #2423, #3841, #5865).

    A full disk is not reported by W&B: finish() warns where there is no space left.
    """
    mode = resolve_mode(settings.wandb)
    if mode == "disabled":
        return None
    init = {
        "project": settings.project,
        "entity": settings.entity,
        "id": run.run_id,
        "name": f"{run.model}-{run.run_id}",
        "group": run.sweep,
        "job_type": run.model,
        "tags": make_tags(run.config),
        "dir": str(run.folder.absolute()),
        "config": dict(run.config),
        "mode": mode,
        "resume": "allow" if mode == "online" else None,
        "program": sys.argv,
        "settings": {"silent": True, "console": "off", "init_timeout": _INIT_TIMEOUT},
    }
    folder = run.folder / "wandb"
    return Tracker(
        "W&B",
        OWNERS / "wandb_owner.py",
        init,
        folder=folder,
        earlier=folder.glob(f"offline-run-*-{run.run_id}"),
        environ={"WANDB_X_STATS_PID": str(os.getpid())},  # system metrics are to be the training's
    )


def make_tags(config: Mapping[str, Any]) -> list[str]:
    """A resolved config's own tags, then ladder, data, size, n_experts and budget, as far as it
    has them.

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
    own = list(config.get("tags") or ())
    named = [f"{k}={v}"[:_TAG_LENGTH] for k, v in values.items() if v not in (None, "")]
    return list(dict.fromkeys([*own, *named]))


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
