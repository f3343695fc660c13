"""Compare laws of the loss in the number of experts."""

import math
from functools import partial

import pandas as pd

from analysis.arguments import CHOICE, CLUSTER
from analysis.command import Command, Options, Output, load_runs
from analysis.experts.compare import DEFAULT_FORMS, HOLD_OUT, compare_laws
from analysis.experts.fit import size_slopes
from analysis.experts.runs import BACKBONE
from analysis.figures.experts import draw_experts
from analysis.fitting.text import in_columns
from analysis.laws.forms import OF_EXPERTS
from analysis.options import given, one_of


def _compute(options: Options, table: pd.DataFrame) -> Output:
    choice = {"model": options.model, "baseline": options.baseline, "size": options.size}
    found = compare_laws(table, options.form or DEFAULT_FORMS, **given(options, compare_laws))
    lines = []
    for fit in found.fits:
        lines.append(f"{fit.form_name}: {fit.summary()}")
        cutoff = fit.cutoff_interval()
        if cutoff is not None and math.isfinite(cutoff[0]):
            lines.append(f"  experts cease to help at N of {cutoff[0]:.3g} to {cutoff[1]:.3g}")
        lines.append("")
    lines.append(found.summary())
    values, drawings = found.to_dict(), {}
    beyond = found.over_experts()
    if len(beyond):
        values["over_experts"] = beyond.to_dict("list")
        trust = (
            f"beyond {beyond['n_experts'].min():g} experts it trusts that one of the forms holds"
        )
        lines.append(f"\nloss by {found.by}, averaged; {trust}:\n{in_columns(beyond, 5)}")
    drawn = [fit for fit in found.fits if fit.of_experts_alone]
    if drawn:
        slopes = size_slopes(table, **{**choice, "model": found.model})
        values["size_slopes"] = slopes.to_dict("list")
        lines.append(f"\n-d ln L / d ln E of each size:\n{slopes.to_string(index=False)}")
        drawings = {"experts": partial(draw_experts, table, drawn, slopes)}
    return Output(values=values, text="\n".join(lines), figures=drawings)


COMMAND = Command(
    options=f"""{CHOICE}{CLUSTER}
--form {one_of(OF_EXPERTS)}...  repeatable (default: {", ".join(DEFAULT_FORMS)})
--hold-out=size {one_of(HOLD_OUT)}  hold out the runs of its largest value, or the fifth of the most
    compute: cells (%(default)s)
--residual=log {{log,loss}}  least squares of the log loss, or of the loss (%(default)s)
--size={BACKBONE} SIZE  the column that N is (%(default)s: see docs/experts.md)
""",
    read=lambda options: load_runs(options, needs=("n_experts",), by_cell=False, by_trunk=False),
    compute=_compute,
    by_model=True,
)
