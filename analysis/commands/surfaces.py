"""Compare surfaces in size and tokens, and average those that the runs don't exclude."""

from collections.abc import Mapping
from functools import partial

import pandas as pd

from analysis.arguments import CLUSTER, SURFACE
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.forms import draw_forms
from analysis.fitting.text import in_columns
from analysis.laws.forms import SURFACES
from analysis.options import choose_series, one_of, pairs
from analysis.surfaces.columns import load_columns
from analysis.surfaces.compare import HELD_OUT, SurfaceComparison
from analysis.surfaces.form_compare import choose_forms, compare_forms_of_series
from analysis.surfaces.forms import FORMS, SUBJECTS
from analysis.surfaces.models import compare_surfaces_of_models

Read = pd.DataFrame | dict[str, pd.DataFrame]
_SIZE = "size"
_OF_SIZE = {"model": None, "x": "n_params", "delta": None, "hold_out": "compute"}
_OF_TABLES = ("unit", "budgets", "budget_tolerance", "flops")


def _check(options: Options) -> None:
    if options.of == _SIZE:
        for name in options.form:
            if name in FORMS:
                raise ValueError(f"--form {name} is of --of {FORMS[name].subject}; give it too")
        return
    choose_forms(options.of, options.form or None)
    for name, default in _OF_SIZE.items():
        if getattr(options, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} is of --of {_SIZE} alone; leave it out")
    for name in _OF_TABLES:
        if getattr(options, name):
            raise ValueError(
                f"--table {name} is of --of {_SIZE} alone: give plain counts, FLOPs and nats"
            )


def _read(options: Options) -> Read:
    if options.of == _SIZE:
        return load_runs(options, by_cell=False)
    return load_columns(
        options.path,
        options.of,
        columns=pairs("column", options.column),
        series=choose_series(options),
        where={name: value.split(",") for name, value in pairs("where", options.where).items()},
        keep=[options.cluster] if options.cluster else [],
        separator=options.separator,
    )


def _compute(options: Options, found: Read) -> Output:
    return _of_size(options, found) if isinstance(found, pd.DataFrame) else _others(options, found)


def _others(options: Options, runs: Mapping[str, pd.DataFrame]) -> Output:
    found, errors = compare_forms_of_series(
        runs,
        options.of,
        forms=options.form or None,
        n_draws=int(options.draws),
        cluster=options.cluster,
    )
    lines = []
    for name, one in found.items():
        lines += [f"{name}, {one.chosen.form_name}: {one.chosen.summary()}\n"]
        lines += [f"{name}: {one.summary()}\n"]
    lines += [f"not fitted: {text}" for text in errors]
    return Output(
        values={name: one.to_dict() for name, one in found.items()},
        text="\n".join(lines),
        figures={"surfaces": partial(draw_forms, found)},
        form="of",
    )


def _of_size(options: Options, table: pd.DataFrame) -> Output:
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
        lines += [*_beyond(one), ""]
    lines += [f"not fitted: {text}" for text in errors]
    return Output(
        values={model: one.to_dict() for model, one in found.items()}, text="\n".join(lines)
    )


def _beyond(found: SurfaceComparison) -> list[str]:
    """Prints the optimum and its loss at the most compute of the runs and at ten times that."""
    if not found.possible:
        return []
    lines = []
    for best in found.bests_over_compute():
        names = ("n_params", "n_tokens", "loss")
        row = {"C = 6ND": f"{best.budget:.4g}", **{n: str(best.values[n]) for n in names}}
        lines.append(f"best by {best.by_words} together (95 % intervals):")
        lines.append(in_columns(pd.DataFrame([row])))
        lines += [f"  note: {text}" for text in best.warnings]
    return lines


COMMAND = Command(
    options=f"""{SURFACE}
--of={_SIZE} {one_of((_SIZE, *SUBJECTS))}  what the surfaces are in: size and tokens, or
    other columns, of which the form that errs least on held-out runs is chosen (%(default)s)
--delta DELTA  Huber's delta (1.345 standard deviations of the runs)
--draws=200 DRAWS  of the bootstrap (%(default)s)
--form {one_of((*SURFACES, *FORMS))}...  repeatable (default: all of what --of says)
--hold-out=compute {one_of(HELD_OUT)}  hold out the fifth of the runs with the most of it;
    ratio: D/N (%(default)s)
{CLUSTER}""",
    check=_check,
    read=_read,
    compute=_compute,
)
