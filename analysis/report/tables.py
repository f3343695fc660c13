"""Tables that several sections of a report share, and the units of their columns."""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import LawFit
from analysis.report.page.blocks import DataTable, Format

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

_FORMATS: dict[str, Format] = {
    "budget": numbers.flops,
    "n_experts": numbers.experts,
    **dict.fromkeys(("n_params", "n_active_params", "n_tokens", "tokens"), numbers.count),
}


def budget_column(budget: float) -> str:
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
    intervals = zip(fit.params.items(), fit.conf_int().to_numpy().tolist(), strict=True)
    return pd.DataFrame(
        [
            {
                "model": model,
                "parameter": name,
                "value": Estimate(value, *ends),
                "standard error": fit.bse[name],
                "runs": fit.n_points,
                "status": str(fit.status),
            }
            for (name, value), ends in intervals
            if name not in fit.fixed
        ]
    )


def with_intervals(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """Frame with an Estimate in place of a column NAME, NAME_lower and NAME_upper.

    Without names, of each that has such bounds. The bounds of one may be "lower" and "upper".
    """
    ends = ("lower", "upper")
    names = names or tuple(
        n.removesuffix("_lower") for n in map(str, frame) if n.endswith("_lower")
    )
    bounds = {n: tuple(f"{n}_{e}" if f"{n}_{e}" in frame else e for e in ends) for n in names}
    estimates = {
        name: [
            Estimate(*row) for row in frame[[name, low, high]].astype("float64").to_numpy().tolist()
        ]
        for name, (low, high) in bounds.items()
    }
    kept = frame.drop(columns=[name for pair in bounds.values() for name in pair])
    return kept.assign(**{name: pd.Series(v, frame.index, object) for name, v in estimates.items()})


def read_runs_table(
    frame: pd.DataFrame,
    caption: str,
    *,
    units: Mapping[str, str] | None = None,
    formats: Mapping[str, Format] | None = None,
    best: Mapping[str, Literal["min", "max"]] | None = None,
) -> DataTable:
    """A table whose usual columns have the units and formats of all tables, beside those given."""
    return DataTable(
        frame=frame,
        caption=caption,
        units={**{n: unit for n, unit in UNITS.items() if n in frame}, **(units or {})},
        formats={**{n: form for n, form in _FORMATS.items() if n in frame}, **(formats or {})},
        best=best or {},
    )
