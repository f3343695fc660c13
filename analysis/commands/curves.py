"""Fit laws of whole loss curves under a schedule, and predict other schedules."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from analysis.command import Command, Options, Output, load_records, load_runs
from analysis.curves.compare import EACH, compare_curves
from analysis.curves.history import History
from analysis.curves.laws import FORMS
from analysis.curves.read import histories_of_sweep, histories_of_table
from analysis.curves.schedules import DECAY, FINAL, KINDS, named_schedule, schedule_of_csv
from analysis.figures.curves import draw_curves
from analysis.options import choose_series, given, one_of, pairs
from analysis.table.sources import read_source

_SHARE = r"0?\.\d+|[01]\.?0*"
_SCHEDULE = re.compile(
    rf"(?P<kind>{'|'.join(KINDS)}):(?P<steps>\d+)"
    rf"(,decay=(?P<decay>{_SHARE}))?(,final_lr=(?P<final>{_SHARE}))?"
)
_OPTIONS = f"""
--law {one_of(FORMS)}...  repeatable (default: all)
--hold-out RUN[,RUN]...  fit the others, and print the end that they predict beside the measured
    one: of the runs with this in their name, all at once; {EACH}: of every run by itself;
    repeatable
--predict SCHEDULE...  predict the end of a schedule, e.g. cosine:20000 or
    wsd:20000,decay=0.1,final_lr=0: {", ".join(KINDS)} with its steps, the share of them that a wsd
    decays over ({DECAY}) and the last rate's of the peak ({FINAL}); or of a CSV of step and lr;
    repeatable
--skip STEPS  leave out the rows up to this step (default: twice the warm-up)
--delta DELTA  Huber's, of ln L (default: by the residuals)
--draws=200 DRAWS  of the bootstrap (%(default)s)
"""


def _parse(text: str) -> dict[str, Any] | Path:
    """Read a schedule as named_schedule takes it, or the path of a CSV; ValueError for neither."""
    found = _SCHEDULE.fullmatch(text)
    if found is None and Path(text).is_file():
        return Path(text)
    if found is None:
        form = f"{one_of(KINDS)}:STEPS[,decay=SHARE][,final_lr=SHARE]"
        raise ValueError(f"--predict {text!r} is not {form}, shares from 0 to 1, and no file")
    shares = {name: float(found[name]) for name in ("decay", "final") if found[name]}
    return {"kind": found["kind"], "n_steps": int(found["steps"]), **shares}


def _check(options: Options) -> None:
    for text in options.predict:
        _parse(text)


def _read(options: Options) -> list[History]:
    path = Path(options.path)
    if path.is_dir():
        source = read_source(path, options.separator)
        table = load_runs(options, source, keep=("run_id",), by_cell=False)
        found, left_out = histories_of_sweep(table, load_records(source, table), path)
        for text in left_out:
            print(f"note: {text}") if not options.json else None
        return found
    where = {name: value.split(",") for name, value in pairs("where", options.where).items()}
    return histories_of_table(
        read_source(path, options.separator).frame,
        columns=pairs("column", options.column),
        series=choose_series(options),
        where=where,
    )


def _schedules(options: Options, like: History) -> list[History]:
    return [
        schedule_of_csv(one, like.series)
        if isinstance(one, Path)
        else named_schedule(like=like, **one)
        for one in map(_parse, options.predict)
    ]


def _compute(options: Options, histories: Sequence[History]) -> Output:
    found = compare_curves(
        histories,
        options.law or tuple(FORMS),
        schedules=partial(_schedules, options),
        n_draws=options.draws,
        **given(options, compare_curves),
    )
    drawing = {"curves": partial(draw_curves, found)} if found.fits else {}
    return Output.of(found, figures=drawing, tables={"table": found.points()})


COMMAND = Command(
    options=_OPTIONS,
    check=_check,
    read=_read,
    compute=_compute,
    unused=("unit", "flops", "budgets", "budget_tolerance"),
    reads="steps, losses and rates",
)
