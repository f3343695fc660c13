"""Loss in size and tokens alone."""

import numpy as np
import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.surfaces.compare import compare_surfaces


def _answer(fit: pd.DataFrame, hidden: pd.DataFrame) -> Answer:
    found = compare_surfaces(fit["N"], fit["D"], fit["loss"])
    return Answer(
        predicted=found.predict(hidden["N"], hidden["D"], new_run=True),
        chosen=found.by,
        warnings=tuple(found.disagreement),
    )


_TASK = Task(
    name="size_and_tokens",
    columns=("N", "D"),
    target="loss",
    published=("farseer_scaling_law",),
    answer=_answer,
    largest=lambda rows: (rows["N"] * rows["D"]).to_numpy(dtype=np.float64),
)
TASKS = (_TASK,)
