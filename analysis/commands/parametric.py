"""Fit L = E + A/N^alpha + B/D^beta (approach 3)."""

from functools import partial

import pandas as pd

from analysis.arguments import CLUSTER, SURFACE
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.parametric import draw_contours
from analysis.fitting.status import FitError
from analysis.parametric import ParametricFit, fit_parametric
from analysis.report.curves import draw_left
from analysis.report.gallery import file_label
from analysis.surfaces.fit import HOFFMANN_S
from analysis.surfaces.models import cells_of_models
from analysis.table.load import finished
from analysis.table.merged import find_merged
from analysis.table.trunks import shared_trunk
from analysis.table.warned import warnings_of_table
from analysis.validation.influence import ENOUGH_RUNS, Influence, compute_influence

_DRAWS = 500  # of the bootstrap without the runs
_FEW = 100  # where nobody asked


def _compute(options: Options, table: pd.DataFrame) -> Output:
    done = finished(table)
    found: dict[str, ParametricFit] = {}
    influences: dict[str, Influence] = {}
    errors = []
    delta = float("inf") if options.residual == "loss" else options.delta
    cluster = options.cluster or shared_trunk(table)
    of_models = cells_of_models(table, options.x, options.model, cluster)
    for model, cells in of_models.items():
        columns = (cells[options.x], cells["n_tokens"], cells["loss"])
        how = {"delta": delta, "residual": options.residual}
        try:
            groups = cells[cluster] if cluster else None
            fit = fit_parametric(*columns, groups=groups, n_draws=options.draws, **how)
            found[model] = fit.with_warnings(warnings_of_table(table))
            many = options.influence is None and len(cells) >= ENOUGH_RUNS
            if many or options.influence:
                influence = compute_influence(*columns, n_draws=_FEW if many else _DRAWS, **how)
                if options.influence or influence.warnings:
                    influences[model] = influence
        except ValueError as error:
            errors.append(f"{model}: {error}")
    if not found:
        raise FitError(f"no model could be fitted: {'; '.join(errors)}")
    values = {model: fit.to_dict() for model, fit in found.items()}
    for model, influence in influences.items():
        values[model]["influence"] = influence.to_dict()
    drawn = {}
    for model, fit in found.items():
        runs, label = done[done["series"] == model], file_label(model)
        drawn[f"contours_{label}"] = partial(draw_contours, fit, runs, size=options.x)
        drawn[f"residuals_{label}"] = partial(draw_left, fit, runs, options.x)
    merged = find_merged(table)
    heading = f" ({merged.how})" if merged else ""
    lines = []
    for model, fit in found.items():
        lines += [
            f"{model}{heading}\n{fit.summary()}",
            f"  {fit.share_at_best:.0%} of {fit.n_starts} starts reached the best value; condition "
            f"number {fit.condition:.3g}; gradient {fit.gradient:.1e}\n",
        ]
        if model in influences:
            lines.append(f"{influences[model].summary()}\n")
    lines += [f"not fitted: {text}" for text in errors]
    return Output(values=values, text="\n".join(lines), figures=drawn)


COMMAND = Command(
    options=f"""{SURFACE}
--delta={HOFFMANN_S} DELTA  Huber's delta ({HOFFMANN_S})
--draws=1000 DRAWS  of the bootstrap (%(default)s)
--residual=log {{log,loss}}  of the log loss with Huber, or least squares of the loss
{CLUSTER}
--[no-]influence  find the runs that each parameter depends on most, and fit again without them
    (default: of {ENOUGH_RUNS} runs or more, and told where a few decide)
""",
    read=lambda options: load_runs(options, needs=(options.x, "n_tokens")),
    compute=_compute,
)
