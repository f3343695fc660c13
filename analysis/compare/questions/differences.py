"""Models against a baseline, beside the noise of seeds."""

import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.compare.answer import answered, typed
from analysis.comparison import Comparison
from analysis.differences.by_column import compare_by
from analysis.differences.correction import holm
from analysis.differences.models import compare_models, seed_noise
from analysis.isoflop.offsets import at_budgets
from analysis.questions import Question


def _check(options: Options) -> None:
    if options.by and options.holm:
        raise ValueError(
            f"--by {options.by} and --holm don't go together; for one value give --holm "
            f"--where {options.by}=VALUE"
        )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    how = typed(options, compare_models)
    if options.noise_of is not None:
        how["noise"] = seed_noise(at.table, budget=options.noise_of)
    found: Comparison
    if options.by:
        found = compare_by(at.table, options.by, **how)
    else:
        means = compare_models(at.table, **how)
        found = holm(means) if options.holm else means
    form = "by" if options.by else "holm" if options.holm else ""
    return answered(options, found, said=at.how, form=form)


QUESTION = Question(
    help="mean losses of models, beside the noise of seeds",
    order=4,
    options="""
--budget FLOPS  where (default: where most have seeds)
--noise-of FLOPS  the budget whose seeds give the noise (default: the one compared)
--holm  the p of each difference, alone and after Holm's correction for all of them
""",
    takes={
        "baseline": "the model (default: dense)",
        "by": "at each value of a column, e.g. n_experts, and on the average",
    },
    suits=lambda _, runs: "seed" in runs and runs["seed"].nunique() > 1,
    check=_check,
    read=lambda options: load_runs(options, options.source, needs=("budget", "seed")),
    compute=_compute,
)
