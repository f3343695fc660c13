"""Loss in the size without experts, their number and the router, one law for all routers."""

import pandas as pd

from analysis.benchmark.task import Answer, Task
from analysis.benchmark.tasks import experts
from analysis.surfaces.form_compare import compare_forms

_NAMES = {
    "num_experts": "n_experts",
    "dense_parameter_count": "n_params",
    "router_type": "router",
}


def _answer(fit: pd.DataFrame, hidden: pd.DataFrame) -> Answer:
    runs, asked = (rows.rename(columns=_NAMES)[[*_NAMES.values()]] for rows in (fit, hidden))
    found = compare_forms(runs, fit[TASK.target], "routers")
    return Answer(
        predicted=found.predict(asked, new_run=True),
        chosen=", ".join(form.form_name for form in found.close),
        warnings=found.warnings,
    )


TASK = Task(
    name="routers",
    columns=tuple(_NAMES),
    target=experts.TASK.target,
    published=experts.TASK.published,
    answer=_answer,
    largest=experts.TASK.largest,
)
