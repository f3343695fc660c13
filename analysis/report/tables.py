"""Tables that several sections of a report share, and the units of their columns."""

import pandas as pd

from analysis.fitting.results import Fit

UNITS = {
    "budget": "FLOPs",
    "loss": "nats/token",
    "loss*": "nats/token",
    "perplexity": "per token",
    "n_params": "parameters",
    "n_active_params": "parameters",
    "n_tokens": "tokens",
    "rmse": "nats/token",
    "unevenness": "nats",
    "bits_per_byte": "bits/byte",
    "wall_seconds": "s",
    "held_out_rmse": "nats/token",
    "held_out_bias": "nats/token",
}
PLAIN = dict.fromkeys(("value", "lower", "upper", "standard error"), ".4g")


def params_table(fit: Fit, model: str) -> pd.DataFrame:
    """A row a fitted parameter, with its 95 % interval."""
    return pd.DataFrame(
        [
            {
                "model": model,
                "parameter": name,
                "value": value,
                "lower": fit.bounds(name)[0],
                "upper": fit.bounds(name)[1],
                "standard error": fit.bse[name],
                "runs": fit.n_points,
                "status": str(fit.status),
            }
            for name, value in fit.params.items()
            if name not in fit.fixed
        ]
    )


def units_of(frame: pd.DataFrame, size: str) -> dict[str, str]:
    """Of the columns that a frame has; size is what its intervals are of."""
    unit = "tokens" if size == "n_tokens" else "parameters"
    own = {f"{size}*": unit, "lower": unit, "upper": unit}
    own |= {"loss lower": "nats/token", "loss upper": "nats/token"}
    return {name: u for name, u in {**UNITS, **own}.items() if name in frame}
