"""Chosen runs as the yaml of an experiment, which `python -m experiments.run` takes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from analysis import numbers
from analysis.planning.runs import NextRuns
from analysis.planning.steps import Run
from analysis.table.configs import flattened
from experiments.records.record import RunRecord

_RATE = "ladder.lr"  # the peak rate at the ladder's width, from which others follow


def find_experiment(records: Sequence[RunRecord]) -> str | None:
    """Experiment that most of the runs were started by, as their commands name it."""
    named = Counter(
        word.partition("=")[2]
        for record in records
        for word in record.environment.get("command", ())
        if word.startswith("experiment=")
    )
    return named.most_common(1)[0][0] if named else None


def experiment_yaml(
    found: NextRuns, records: Sequence[RunRecord], name: str, base: str | None, command: str
) -> str:
    """Text of conf/experiment/NAME.yaml: the setting of `base`, by default the experiment that
    the runs are of, with a grid for each model, budget, seed and rate. command: that made it.

    Rates are those of the run of that model nearest in budget, then in size. Raises ValueError if
    the sizes are no depths, the runs are of a variant of a model, or no experiment is known.
    """
    if not found.runs:
        raise ValueError("there is no run to write; give a larger --budget")
    if any(np.isnan(run.size) for run in found.runs):
        raise ValueError("the sizes of these runs are not depths alone: no `size` says them")
    models = {record.model for record in records}
    other = next((run.model for run in found.runs if run.model not in models), None)
    if other is not None:
        raise ValueError(f"{other!r} is no choice of conf/model; take one variant by --where")
    base = base or find_experiment(records)
    if base is None:
        raise ValueError("no record names the experiment that it is of; say it: --base EXPERIMENT")
    lines = [
        "# @package _global_",
        f"# Runs that narrow {found.target} of {' and '.join(found.models)} most per FLOP: "
        f"{len(found.runs)} runs, {numbers.flops(found.flops)} FLOPs.",
        f"# Its {found.level:.0%} half-width: {found.width(found.half[0])} now, expected after "
        f"{found.width(found.half[-1])}.",
        "# By: " + command.replace("\n", " "),
        f"#   python -m experiments.run experiment={name}",
        "defaults:",
        f"  - {base}",
        "  - _self_",
        "",
        "hydra:",
        "  mode: MULTIRUN",
        "  sweeper:",
        "    search: null",
        "    grids:",
    ]
    rated = [(run, _rate(run, records)) for run in found.runs]
    rated.sort(key=lambda pair: (pair[0].model, pair[0].budget, pair[0].seed, pair[1] or 0))
    keys = groupby(rated, key=lambda pair: (pair[0].model, pair[0].budget, pair[0].seed, pair[1]))
    for (model, budget, seed, rate), own in keys:
        sizes = ",".join(str(int(run.size)) for run, _ in sorted(own, key=lambda p: p[0].size))
        said = f'model: {model}, budget: {budget:.12g}, size: "{sizes}", seed: {seed}'
        lines.append(f"      - {{{said}{'' if rate is None else f', {_RATE}: {rate:.6g}'}}}")
    return "\n".join(lines) + "\n"


def _rate(run: Run, records: Sequence[RunRecord]) -> float | None:
    own = [record for record in records if record.model == run.model]

    def away(record: RunRecord) -> tuple[float, float]:
        return abs(float(np.log(record.budget / run.budget))), abs(record.n_layers - run.size)

    config: Mapping[str, object] = flattened(min(own, key=away).config)
    rate = config.get(_RATE)
    return float(rate) if isinstance(rate, int | float) else None
