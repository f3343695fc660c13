"""The columns of a table: their names, order and types, and what other tables call them."""

from collections.abc import Mapping

import pandas as pd

from analysis.table.checks import refuse

COLUMNS = (
    "series",  # what one curve is: the model, and what varies over its runs
    "model",
    "budget",  # training FLOPs
    "n_params",
    "n_active_params",  # those that a token uses
    "n_non_embedding_params",
    "n_tokens",  # trained on, repeats included
    "loss",  # held-out, nats/token
    "n_experts",  # of the layer under study; NA: it has none
    "n_heads",  # of that layer's retrieval, not of attention
    "top_k",  # experts of a head
    "query_norm",
    "seed",
    "lr",  # peak
    "status",  # done | failed | diverged
    # From here on as in experiments.records.RunRecord
    "n_layers",
    "d_model",
    "n_steps",
    "flops_per_token",
    "achieved_flops",
    "train_loss",
    "perplexity",  # exp(loss)
    "bits_per_byte",
    "usage",
    "unevenness",
    "causal_eval",
    "epochs",
    "tokens_per_second",
    "flops_per_second",
    "mfu",
    "wall_seconds",
    "peak_memory_bytes",
    "run_id",
    "sweep",
)
# Sizes and tokens are float64, not counts: in published tables they are often products
WHOLE = (
    "n_experts",
    "n_heads",
    "top_k",
    "seed",
    "n_layers",
    "d_model",
    "n_steps",
    "peak_memory_bytes",
)
TEXT = ("series", "model", "query_norm", "status", "run_id", "sweep")
ALIASES = {  # what it is called elsewhere -> here; only what can mean nothing else
    "val_loss": "loss",  # our records' name; it is held out, which a plain "loss" may not be
    "validation_loss": "loss",
    "eval_loss": "loss",
    "val/loss": "loss",  # W&B's way to group metrics
    "eval/loss": "loss",
    "params": "n_params",  # total, by the convention of scaling-law tables
    "num_params": "n_params",
    "total_params": "n_params",
    "active_params": "n_active_params",
    "tokens": "n_tokens",
    "num_tokens": "n_tokens",
    "flops": "budget",  # of the whole training
    "compute": "budget",
    "num_experts": "n_experts",
    "learning_rate": "lr",  # "num_heads" is not here: it is attention's
}
_OF_LOSS = ("perplexity", "bits_per_byte")  # of the loss that would be taken unasked


def pick_columns(
    frame: pd.DataFrame, columns: Mapping[str, str] | None, notes: list[str]
) -> pd.DataFrame:
    """The frame with COLUMNS first, NA where there is none ("model" for model), others after them.

    columns: our name -> the frame's; it beats ALIASES. A column whose name is ours but whose place
    another took is kept as given_<name>.
    """
    chosen = dict(columns or {})
    for name, given in chosen.items():
        if name not in COLUMNS:
            raise ValueError(f"columns: {name!r} is not one of {', '.join(COLUMNS)}")
        if given not in frame:
            raise ValueError(f"columns: {name}={given!r} is not there; found {_listed(frame)}")
    sources = {}
    for name in COLUMNS:
        source = chosen.get(name) or _source(frame, name, set(chosen.values()))
        if source is not None:
            sources[name] = source
    if "loss" in chosen and _usual_loss(frame) not in (None, chosen["loss"]):
        for name in _OF_LOSS:
            if name not in chosen:
                sources.pop(name, None)
    if "series" not in chosen:
        sources.pop("series", None)
    _require_columns(frame, sources)
    picked = {
        name: frame[sources[name]]
        if name in sources
        else _constant(frame, "model" if name == "model" else None)
        for name in COLUMNS
    }
    for name in frame.columns:
        if name not in COLUMNS and name not in sources.values():
            picked[name] = frame[name]
        elif name in COLUMNS and name not in sources.values() and name != "series":
            picked[f"given_{name}"] = frame[name]
            why = f"{name} is {sources[name]}" if name in sources else "it is of another loss"
            notes.append(f"the column named {name} is kept as given_{name}: {why}")
    return pd.DataFrame(picked, index=frame.index)


def _source(frame: pd.DataFrame, name: str, taken: set[str]) -> str | None:
    """The frame's column for ours of that name, by name or alias."""
    aliases = [a for a, ours in ALIASES.items() if ours == name and a in frame and a not in taken]
    # Beside a held-out loss, a column named loss is the training's, as in what we log to W&B
    if name in frame and not (name == "loss" and aliases):
        return name
    if len(aliases) > 1:
        raise ValueError(
            f"{name} may be any of {', '.join(aliases)}; "
            f"say which, e.g. columns={{{name!r}: {aliases[0]!r}}}"
        )
    return aliases[0] if aliases else None


def _usual_loss(frame: pd.DataFrame) -> str | None:
    held_out = [alias for alias, ours in ALIASES.items() if ours == "loss"]
    return next((name for name in (*held_out, "loss") if name in frame), None)


def _require_columns(frame: pd.DataFrame, sources: Mapping[str, str]) -> None:
    for wanted, example in ((("loss",), "loss"), (("n_params", "n_active_params"), "n_params")):
        if not any(name in sources for name in wanted):
            raise ValueError(
                f"no column {' or '.join(wanted)}; found {_listed(frame)}; "
                f"say which it is: columns={{{example!r}: 'its name in the table'}}"
            )


def _constant(frame: pd.DataFrame, value: object) -> pd.Series:
    return pd.Series([value] * len(frame), index=frame.index, dtype=object)


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns))


def cast_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with COLUMNS in their types: float64, Int64, string, and boolean.

    Raises ValueError naming the first row with text for a number or a fraction for a count.
    """
    typed = {name: frame[name] for name in frame.columns}
    for name in COLUMNS:
        if name in TEXT:
            text = frame[name].astype("string").str.strip()
            typed[name] = text.where(text != "")
        elif name == "causal_eval":
            typed[name] = _booleans(frame, name)
        else:
            typed[name] = _numbers(frame, name)
    return pd.DataFrame(typed, index=frame.index)


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    values = frame[name].astype(object)
    numbers = pd.to_numeric(values, errors="coerce")
    blank = values.isna() | values.astype(str).str.strip().str.lower().isin(["", "nan"])
    refuse(frame, name, numbers.isna() & ~blank, "is text; a plain number is wanted, e.g. 7e9")
    if name not in WHOLE:
        return numbers.astype("float64")
    fractions = numbers.notna() & (numbers % 1 != 0)  # infinity too
    refuse(frame, name, fractions, "must be a whole number")
    return numbers.astype("Int64")


def _booleans(frame: pd.DataFrame, name: str) -> pd.Series:
    text = frame[name].astype("string").str.strip().str.lower()
    values = text.map({"true": True, "1": True, "1.0": True, "false": False, "0": False})
    refuse(frame, name, values.isna() & text.notna() & (text != ""), "must be True or False")
    return values.astype("boolean")
