"""The size and tokens that a budget should buy."""

import argparse

import pandas as pd

from analysis.arguments import add_choice, add_curves
from analysis.command import Command, Options, Output, table_of
from analysis.experts.fit import fit_expert_law
from analysis.experts.runs import BACKBONE
from analysis.fitting.status import FitError
from analysis.isoflop.fit import fit_isoflop
from analysis.laws.forms import OF_EXPERTS
from analysis.planner import MIN_GAIN, plan


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--budget", type=float, required=True, metavar="FLOPS", help="in training FLOPs"
    )
    add_curves(sub)
    add_choice(sub)
    sub.add_argument(
        "--form", choices=list(OF_EXPERTS), help="a law of experts, to plan their number"
    )
    sub.add_argument("--size", help=f"the column that N is there ({BACKBONE})")
    sub.add_argument(
        "--min-gain",
        type=float,
        metavar="NATS",
        help=f"a doubling of the experts must gain this much ({MIN_GAIN})",
    )


def _check(options: Options) -> None:
    given = {
        "--size": options.size,
        "--baseline": options.baseline,
        "--min-gain": options.min_gain,
    }
    flag = next((flag for flag, value in given.items() if value is not None), None)
    if options.form is None and flag is not None:
        raise ValueError(f"{flag} is of a law of experts; give --form, or leave it out")


def _compute(options: Options, table: pd.DataFrame) -> Output:
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest)
    models = [options.model] if options.model else [law.model for law in fit.laws]
    if not models:
        raise FitError(f"no power law to plan by: {fit.why_no_laws}")
    law = None
    if options.form:
        law = fit_expert_law(
            table,
            options.form,
            model=options.model,
            baseline=options.baseline,
            size=options.size or BACKBONE,
        )
    gain = options.min_gain or MIN_GAIN
    plans = {m: plan(options.budget, fit, model=m, experts=law, min_gain=gain) for m in models}
    notes = [f"note: {text}" for text in fit.moved]
    return Output(
        values={model: one.to_dict() for model, one in plans.items()},
        text="\n".join([*notes, *(one.summary() for one in plans.values())]),
    )


COMMAND = Command(
    help="say what size, tokens and experts a budget should buy",
    options=_options,
    check=_check,
    read=lambda options: table_of(options, needs=("budget", options.x)),
    compute=_compute,
    writes=False,
)
