"""Tables that several sections of a report share, and the units of their columns."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import LawFit

UNITS = {
    "budget": "FLOPs",
    "loss": "nats/token",
    "loss*": "nats/token",
    "sd": "nats/token",
    "perplexity": "per token",
    "n_params": "parameters",
    "n_active_params": "parameters",
    "n_tokens": "tokens",
    "tokens": "tokens",
    "size": "parameters",
    "rmse": "nats/token",
    "unevenness": "nats",
    "bits_per_byte": "bits/byte",
    "wall_seconds": "s",
    "held_out_rmse": "nats/token",
    "held_out_bias": "nats/token",
}


def budget_column(budget: float) -> str:
    """The head of a column of one budget."""
    return f"{numbers.flops(budget)} FLOPs"


def by_budget(values: Mapping[float, Mapping[str, Any]]) -> pd.DataFrame:
    """A row a model, a column a budget; the first of the largest budget first."""
    last = values[max(values)]
    models = dict.fromkeys([*last, *(model for found in values.values() for model in found)])
    return pd.DataFrame(
        {
            "model": list(models),
            **{
                budget_column(budget): [found.get(model) for model in models]
                for budget, found in sorted(values.items())
            },
        }
    )


def params_table(fit: LawFit, model: str) -> pd.DataFrame:
    """A row a fitted parameter, with its 95 % interval."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "parameter": name,
                "value": Estimate(value, *fit.bounds(name)),
                "standard error": fit.bse[name],
                "runs": fit.n_points,
                "status": str(fit.status),
            }
            for name, value in fit.params.items()
            if name not in fit.fixed
        ]
    )


def with_intervals(frame: pd.DataFrame, **bounds: tuple[str, str]) -> pd.DataFrame:
    """The frame with an Estimate in place of each named column and its two of bounds."""
    estimates = {
        name: [
            Estimate(*row) for row in frame[[name, low, high]].astype("float64").to_numpy().tolist()
        ]
        for name, (low, high) in bounds.items()
    }
    kept = frame.drop(columns=[name for pair in bounds.values() for name in pair])
    return kept.assign(**{name: pd.Series(v, frame.index, object) for name, v in estimates.items()})


def units_of(frame: pd.DataFrame, size: str = "") -> dict[str, str]:
    """The units of the columns that a frame has; size* is in tokens or parameters."""
    own = {f"{size}*": "tokens" if size == "n_tokens" else "parameters"}
    return {name: unit for name, unit in {**UNITS, **own}.items() if name in frame}


def formats_of(frame: pd.DataFrame) -> dict[str, Any]:
    """Budgets and counts are written as everywhere else."""
    forms: dict[str, Any] = {
        "budget": numbers.flops,
        "n_experts": numbers.experts,
        **dict.fromkeys(("n_params", "n_active_params", "n_tokens", "tokens"), numbers.count),
    }
    return {name: form for name, form in forms.items() if name in frame}
