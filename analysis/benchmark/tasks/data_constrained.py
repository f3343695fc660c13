"""Loss in size, tokens and unique tokens: Muennighoff 2023's runs (arXiv:2305.16264)."""

import numpy as np
import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.fitting.intervals import Array
from analysis.surfaces.compare import compare_surfaces

_SWAPPED = "unique_tokens is above tokens in most rows: the two are read the other way round"


def _columns(rows: pd.DataFrame, swapped: bool) -> tuple[Array, Array, Array]:
    N, D, U = (rows[name].to_numpy(dtype=np.float64) for name in _TASK.columns)
    return (N, U, D) if swapped else (N, D, U)


def _answer(fit: pd.DataFrame, hidden: pd.DataFrame) -> Answer:
    swapped = bool((fit["unique_tokens"] > fit["tokens"]).mean() > 0.5)
    N, D, U = _columns(fit, swapped)
    found = compare_surfaces(N, D, fit[_TASK.target], n_unique=np.minimum(U, D))
    N, D, U = _columns(hidden, swapped)
    return Answer(
        predicted=found.predict(N, D, n_unique=np.minimum(U, D), new_run=True),
        chosen=found.by,
        warnings=(*((_SWAPPED,) if swapped else ()), *found.disagreement),
    )


_TASK = Task(
    name="data_constrained",
    columns=("params", "tokens", "unique_tokens"),
    target="loss",
    published=("data_constrained_scaling_law",),
    answer=_answer,
    largest=lambda rows: (rows["params"] * rows[["tokens", "unique_tokens"]].max(axis=1)).to_numpy(
        dtype=np.float64
    ),
)
TASKS = (_TASK,)
