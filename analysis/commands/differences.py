"""Models against a baseline, beside the noise of seeds."""

import pandas as pd

from analysis.command import Command, Options, Output, load_runs
from analysis.differences.by_column import DifferencesBy, compare_by
from analysis.differences.correction import Corrected, holm
from analysis.differences.models import Differences, compare_models, seed_noise
from analysis.isoflop.offsets import at_budgets


def _compute(options: Options, table: pd.DataFrame) -> Output:
    if options.by and options.holm:
        raise ValueError(
            f"--by {options.by} and --holm don't go together; for one value give --holm "
            f"--where {options.by}=VALUE"
        )
    at = at_budgets(table)
    found: Differences | DifferencesBy | Corrected
    noise = None if options.noise_of is None else seed_noise(at.table, budget=options.noise_of)
    how = {"budget": options.budget, "noise": noise}
    if options.by:
        found = compare_by(at.table, options.by, options.baseline, **how)
    else:
        found = compare_models(at.table, options.baseline, **how)
        found = holm(found) if options.holm else found
    return Output.of(found, at.how)


COMMAND = Command(
    help="compare models beside the noise of seeds",
    options="""
--baseline=dense BASELINE  the model that others are compared with (dense)
--budget FLOPS  where (default: where most have seeds)
--by COLUMN  at each of its values, e.g. n_experts, and on the average
--noise-of FLOPS  the budget whose seeds give the noise (default: the one compared)
--holm  the p of each difference, alone and after Holm's correction for all of them
""",
    read=lambda options: load_runs(options, needs=("budget", "seed")),
    compute=_compute,
)
