"""Laws of whole loss curves under a schedule, and what they predict of others."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.command import Command, Options, Output, load_records, load_runs
from analysis.curves.compare import EACH, compare_curves
from analysis.curves.history import History
from analysis.curves.laws import FORMS
from analysis.curves.read import histories_of_sweep, histories_of_table
from analysis.curves.schedules import KINDS, named_schedule, schedule_of_csv
from analysis.figures.curves import draw_curves
from analysis.options import as_typed, choose_series, given, one_of, pairs
from analysis.table.sources import read_source

_OPTIONS = f"""
--law {one_of(FORMS)}...  repeatable (default: all)
--hold-out RUN[,RUN]...  fit the others, and print the end that they predict beside the measured
    one: of the runs with this in their name, all at once; {EACH}: of every run by itself;
    repeatable
--predict SCHEDULE...  predict the end of {", ".join(KINDS)} (with --steps), or of a CSV of step and
    lr; repeatable
--steps N  of the schedules to predict
--decay=0.2 SHARE  of the steps, of a predicted wsd (%(default)s)
--final-lr=0.1 SHARE  of the peak, at the end of a predicted schedule (%(default)s)
--skip STEPS  leave out the rows up to this step (default: twice the warm-up)
--delta DELTA  Huber's, of ln L (default: by the residuals)
--draws=200 DRAWS  of the bootstrap (%(default)s)
"""


def _check(options: Options) -> None:
    named = [text for text in options.predict if text in KINDS]
    files = [text for text in options.predict if text not in KINDS]
    for text in files:
        if not Path(text).is_file():
            raise ValueError(f"--predict {text!r} is not {', '.join(KINDS)}, and no file")
    if named and options.steps is None:
        raise ValueError(f"--predict {named[0]} without --steps; say how many, e.g. --steps 10000")
    if options.steps is not None and (options.steps < 2 or not named):
        rule = "must be 2 or more" if options.steps < 2 else "is of --predict; give both"
        raise ValueError(f"--steps {options.steps} {rule}")
    for flag, value in (("decay", options.decay), ("final-lr", options.final_lr)):
        if not 0 <= value <= 1:
            raise ValueError(f"--{flag} {value:g} must be a share, 0 to 1")
    if options.skip is not None and not options.skip >= 0:
        raise ValueError(f"--skip {options.skip:g} must be 0 or more steps")


def _read(options: Options) -> list[History]:
    path = Path(options.path)
    if path.is_dir():
        source = read_source(path, options.separator)
        table = load_runs(options, source, keep=("run_id",), by_cell=False)
        found, left_out = histories_of_sweep(table, load_records(source, table), path)
        for text in left_out:
            print(f"note: {as_typed(text)}") if not options.json else None
        return found
    where = {name: value.split(",") for name, value in pairs("where", options.where).items()}
    return histories_of_table(
        read_source(path, options.separator).frame,
        columns=pairs("column", options.column),
        series=choose_series(options),
        where=where,
    )


def _schedules(options: Options, like: History) -> list[History]:
    how = {"decay": options.decay, "final": options.final_lr}
    return [
        named_schedule(text, options.steps, like, **how)
        if text in KINDS
        else schedule_of_csv(Path(text), like.series)
        for text in options.predict
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
    help="fit laws of whole loss curves under a schedule, and predict other schedules",
    options=_OPTIONS,
    check=_check,
    read=_read,
    compute=_compute,
    unused=("unit", "flops", "budgets", "budget_tolerance"),
    reads="steps, losses and rates",
)
