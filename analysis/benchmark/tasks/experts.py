"""Loss in the size without experts and their number: Clark 2022's runs (arXiv:2202.01169)."""

import numpy as np
import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.experts.compare import compare_laws
from analysis.table.load import check_table

_NAMES = {
    "n_experts": "num_experts",
    "n_active_params": "dense_parameter_count",
    "loss": "loss_validation",
}


def _answer(fit: pd.DataFrame, hidden: pd.DataFrame) -> Answer:
    rows = fit[[*_TASK.columns, _TASK.target]].assign(model="moe")
    table = check_table(rows, columns=_NAMES)
    found = compare_laws(table)
    N, E = (hidden[name] for name in reversed(_TASK.columns))
    return Answer(
        predicted=found.predict(N, E, new_run=True),
        chosen=found.by,
        warnings=(*found.of_table, *found.disagreement),
    )


_TASK = Task(
    name="experts",
    columns=("num_experts", "dense_parameter_count"),
    target="loss_validation",
    published=("moe_scaling_law",),
    answer=_answer,
    largest=lambda rows: (rows["num_experts"] * rows["dense_parameter_count"]).to_numpy(
        dtype=np.float64
    ),
)
TASKS = (_TASK,)
