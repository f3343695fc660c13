"""Schedules to predict: the harness's own by name, or the rates of a CSV."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curves.history import History, check_steps
from analysis.table.sources import read_source
from experiments.records.schedule import lr_factor

KINDS = ("cosine", "wsd", "constant")
_N_ROWS = 400
DECAY = 0.2  # of the steps, of a wsd
FINAL = 0.1  # of the peak, as optim.final_lr's default


def named_schedule(
    kind: str, n_steps: int, like: History, *, decay: float = DECAY, final: float = FINAL
) -> History:
    """A schedule of n_steps with the peak and the warm-up of `like`, its losses nan.

    kind: cosine, wsd (linear over the share `decay` of the steps) or constant; final: of the peak.
    """
    check_steps(n_steps, kind)
    n_warmup = max(1, round(like.risen))
    if n_steps <= n_warmup:
        raise ValueError(f"steps={n_steps} is no longer than the warm-up, {n_warmup} steps")
    step = np.unique(np.linspace(1, n_steps, min(n_steps, _N_ROWS)).round())
    factor = partial(
        lr_factor,
        n_steps=n_steps,
        kind="trunk" if kind == "constant" else kind,
        n_warmup=n_warmup,
        n_decay=max(1, round(decay * n_steps)),
        final=final,
    )
    return History(
        run=f"{kind} {n_steps}",
        series=like.series,
        step=step,
        rate=like.peak * np.array([factor(int(s) - 1) for s in step]),
        loss=np.full(len(step), np.nan),
    )


def schedule_of_csv(path: Path, series: str) -> History:
    """Rates of a CSV with columns step and lr."""
    frame = read_source(path).frame
    absent = [name for name in ("step", "lr") if name not in frame]
    if absent:
        found = ", ".join(map(str, frame))
        raise ValueError(f"{path} has no column {' or '.join(absent)}; found {found}")
    numbers = {name: pd.to_numeric(frame[name], errors="coerce") for name in ("step", "lr")}
    step, rate = (values.to_numpy(dtype=np.float64) for values in numbers.values())
    if not (np.isfinite(rate).all() and (rate >= 0).all() and (rate > 0).any()):
        raise ValueError(f"{path}: lr must be finite numbers, 0 or more, and somewhere above 0")
    if not (np.isfinite(step).all() and (np.diff(step) > 0).all() and step[0] >= 0):
        raise ValueError(f"{path}: steps must be finite numbers and rise")
    check_steps(step[-1], str(path))
    return History(
        run=path.stem, series=series, step=step, rate=rate, loss=np.full(len(step), np.nan)
    )
