"""Say what other sizes than the best cost, budget by budget."""

import math

import pandas as pd

from analysis.arguments import CURVES, NOISE
from analysis.command import Command, Options, Output, load_runs
from analysis.flatness import WITHIN, compute_flatness
from analysis.isoflop.fit import fit_isoflop
from analysis.options import given


def _compute(options: Options, table: pd.DataFrame) -> Output:
    fit = fit_isoflop(table, **given(options, fit_isoflop))
    found = compute_flatness(fit, **_within(options.within), baseline=options.baseline)
    return Output.of(found, fit.moved)


def _within(text: str) -> dict[str, float]:
    """Nats, or a share of compute by its percents, as flatness takes them."""
    percents = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 < value < (100 if percents else math.inf):
        raise ValueError(
            f"--within {text} must be a number of nats above 0, or of percents of compute, e.g. 5%"
        )
    return {"within_compute": value / 100} if percents else {"within": value}


def _check(options: Options) -> None:
    _within(options.within)


COMMAND = Command(
    options=f"""{CURVES}{NOISE}
--within={WITHIN} COST  give the sizes that cost this much (%(default)s): nats, or a share of
    compute, e.g. 5%%
--baseline BASELINE  the model whose best loss the sizes are compared with
""",
    check=_check,
    read=lambda options: load_runs(options, needs=("budget", options.x)),
    compute=_compute,
)
