"""Surfaces in size and tokens, compared by hold-out, for each model."""

from functools import partial

import pandas as pd

from analysis.arguments import CLUSTER, SURFACE
from analysis.command import Command, Options, Output, load_runs
from analysis.fitting.intervals import Estimate
from analysis.fitting.text import in_columns
from analysis.laws.forms import SURFACES
from analysis.options import one_of
from analysis.surfaces.compare import HELD_OUT, SurfaceComparison
from analysis.surfaces.models import compare_surfaces_of_models


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found, errors = compare_surfaces_of_models(
        table,
        options.x,
        options.model,
        forms=options.form or tuple(SURFACES),
        n_draws=options.draws,
        hold_out=options.hold_out,
        delta=options.delta,
        cluster=options.cluster,
    )
    lines = []
    for model, one in found.items():
        lines += [f"{model}, {fit.form_name}: {fit.summary()}\n" for fit in one.fits]
        lines.append(f"{model}: {one.summary()}")
        lines += [f"{text}\n" for text in _beyond(one)]
    lines += [f"not fitted: {text}" for text in errors]
    return Output(
        values={model: one.to_dict() for model, one in found.items()}, text="\n".join(lines)
    )


def _beyond(found: SurfaceComparison) -> list[str]:
    """Prints the optimum and its loss at the most compute of the runs and at ten times that."""
    if not found.possible:
        return []
    rows = found.over_compute()
    shown = pd.DataFrame({"C = 6ND": rows["budget"].map("{:.4g}".format)})
    for name in ("n_params", "n_tokens", "loss"):
        estimates = map(Estimate, *(rows[f"{name}{end}"] for end in ("", "_lower", "_upper")))
        shown[name] = [str(one) for one in estimates]
    by = ", ".join(found.possible)
    return [f"best by {by} together (95 % intervals that hold those of each):\n{in_columns(shown)}"]


COMMAND = Command(
    help="compare surfaces in size and tokens, and average those that the runs don't exclude",
    options=f"""{SURFACE}
--delta DELTA  Huber's delta (1.345 standard deviations of the runs)
--draws=200 DRAWS  of the bootstrap (%(default)s)
--form {one_of(SURFACES)}...  repeatable (default: all)
--hold-out=compute {one_of(HELD_OUT)}  hold out the fifth of the runs with the most of it;
    ratio: D/N (%(default)s)
{CLUSTER}""",
    read=partial(load_runs, by_cell=False),
    compute=_compute,
)
