"""Columns of a table: their names, order and types, and what other tables call them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.text import join_first
from analysis.settings import setting
from analysis.table.checks import refuse
from analysis.table.layer import PREFIX
from analysis.table.layer import typed as as_setting
from analysis.table.names import (
    Match,
    find_matches,
    guess_notes,
    is_held_out,
    is_last_resort,
    own_unit,
)
from analysis.table.units import Unit, parse_unit

COLUMNS = (
    "series",  # what one curve is: the model, and what varies over its runs
    "model",
    "budget",  # training FLOPs
    "n_params",
    "n_active_params",  # those that a token uses
    "n_non_embedding_params",
    "n_tokens",  # trained on, repeats included
    "unique_tokens",  # of these, those that are no repeats
    "loss",  # held-out, nats/token
    "n_experts",  # of the layer under study; NA: it has none
    "n_heads",  # of that layer's retrieval, not of attention
    "top_k",  # experts of a head
    "seed",
    "lr",  # peak
    "status",  # done | failed | diverged | hopeless
    # From here on as in experiments.records.record.RunRecord
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
TEXT = ("series", "model", "status", "run_id", "sweep")
_OF_LOSS = ("perplexity", "bits_per_byte")  # of the loss that would be taken unasked
_SIZES = ("n_params", "n_active_params")
_LISTED = 40  # columns that a message lists; an export of W&B has hundreds


@dataclass(frozen=True, kw_only=True)
class Picked:
    """COLUMNS of a frame. units: of those to convert, the frame's name for it and its unit; names:
    our name -> the frame's.
    """

    frame: pd.DataFrame
    names: Mapping[str, str]
    units: Mapping[str, tuple[str, Unit]]


def pick_columns(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None,
    notes: list[str],
    *,
    units: Mapping[str, Unit] | None = None,
    needs: Sequence[str] = (),
    flops: str | None = None,
) -> Picked:
    """Frame with COLUMNS first, NA where there is none ("model" for model), others after them.

    columns: our name -> the frame's; it beats what names say. units: of our columns; they beat the
    units in names. Without a loss, it is of the perplexity, else of the bits per byte. needs:
    columns that must be there or follow from others, beside the loss and a size. A column whose
    name is ours but whose place another took is kept as given_<name>.
    """
    chosen = dict(columns or {})
    for name, given in chosen.items():
        if name not in COLUMNS:
            raise ValueError(f"{setting('columns')}: {name!r} is not one of {', '.join(COLUMNS)}")
        if given not in frame:
            raise ValueError(
                f"{setting('columns')}: {name}={given!r} is not there; found {_listed(frame)}"
            )
    sources = _sources(frame, chosen, needs, notes)
    if "loss" in chosen and _usual_loss(frame) not in (None, chosen["loss"]):
        for name in _OF_LOSS:
            if name not in chosen:
                sources.pop(name, None)
    if "series" not in chosen:
        sources.pop("series", None)
    if "loss" not in sources:
        sources |= _loss_of_others(sources)
    _require_columns(frame, sources, needs, flops)
    notes += guess_notes(sources)
    if "model" not in sources:
        notes += _note_of_models(frame, sources)
    picked = {
        name: frame[sources[name].name]
        if name in sources
        else pd.Series("model" if name == "model" else None, frame.index, dtype=object)
        for name in COLUMNS
    }
    taken = {match.name for match in sources.values()}
    for name in frame.columns:
        if name not in COLUMNS and name not in taken:
            picked[name] = frame[name]
        elif name in COLUMNS and name not in taken and name != "series":
            picked[f"given_{name}"] = frame[name]
            why = f"{name} is {sources[name].name}" if name in sources else "it is of another loss"
            notes.append(f"the column named {name} is kept as given_{name}: {why}")
    return Picked(
        frame=pd.DataFrame(picked, index=frame.index),
        names={name: match.name for name, match in sources.items()},
        units=_find_units(sources, units or {}),
    )


def _sources(
    frame: pd.DataFrame, chosen: Mapping[str, str], needs: Sequence[str], notes: list[str]
) -> dict[str, Match]:
    """Frame's column for each of ours that it has. One of several is never guessed."""
    found: dict[str, Match] = {}
    several: dict[str, list[Match]] = {}
    for name in COLUMNS:
        if name in chosen:
            found[name] = Match(name=chosen[name], unit=own_unit(name, chosen[name]))
            continue
        matches = _matches(frame, name, set(chosen.values()))
        if len(matches) == 1:
            found[name] = matches[0]
        elif matches and not (name == "loss" and name in frame and matches[0].guessed):
            several[name] = matches
        elif matches:
            found[name] = Match(name=name)
    wanted = {"loss", *needs, *(_SIZES if not found.keys() & set(_SIZES) else ())}
    if "loss" not in found and "perplexity" not in found:
        wanted |= set(_OF_LOSS)
    for name, matches in several.items():
        names = ", ".join(match.name for match in matches)
        remedy = f"say which, e.g. {setting('columns', {name: matches[0].name})}"
        if name in wanted or not matches[0].guessed:
            raise ValueError(f"{name} may be any of {names}; {remedy}")
        notes.append(f"{name} may be any of {names}, and none is taken; {remedy}")
    return found


def _matches(frame: pd.DataFrame, name: str, taken: set[str]) -> list[Match]:
    """Frame's columns that may be ours of that name, by name or alias."""
    matches = [m for m in find_matches(name, map(str, frame)) if m.name not in taken]
    # Beside a held-out loss, a column named loss is the training's, as in what we log to W&B
    if name in frame and not (name == "loss" and any(map(is_held_out, matches))):
        # One that is smoothed or the last beside it: which of the two is held out is not known
        return [Match(name=name), *filter(is_last_resort, matches)]
    return matches


def _usual_loss(frame: pd.DataFrame) -> str | None:
    matches = find_matches("loss", map(str, frame))
    held_out = (match.name for match in matches if is_held_out(match))
    others = (match.name for match in matches)
    return next(held_out, "loss" if "loss" in frame else next(others, None))


def _loss_of_others(sources: Mapping[str, Match]) -> dict[str, Match]:
    for name, unit in (("perplexity", "perplexity"), ("bits_per_byte", "bit/byte")):
        if name in sources:
            return {"loss": Match(name=sources[name].name, unit=parse_unit("loss", unit))}
    return {}


def _find_units(
    sources: Mapping[str, Match], given: Mapping[str, Unit]
) -> dict[str, tuple[str, Unit]]:
    for name in given:
        if name not in sources:
            raise ValueError(
                f"{setting('units')}: there is no {name}; "
                f"{setting('columns', {name: 'MY_NAME'})} names it"
            )
    of_names = {name: match.unit for name, match in sources.items() if match.unit is not None}
    return {name: (sources[name].name, unit) for name, unit in {**of_names, **given}.items()}


def _note_of_models(frame: pd.DataFrame, sources: Mapping[str, Match]) -> list[str]:
    """A note, if no column is the model's and one of words might be it."""
    taken = {match.name for match in sources.values()}
    for name in frame.columns:
        column = frame[name]
        if name in taken or pd.api.types.is_numeric_dtype(column):
            continue
        if 1 < column.nunique() <= len(frame) // 2:
            named = setting("columns", {"model": str(name)})
            return [f"no column model: all rows are one curve; if {name} says the model, {named}"]
    return []


def _require_columns(
    frame: pd.DataFrame, sources: Mapping[str, Match], needs: Sequence[str], flops: str | None
) -> None:
    """Raises ValueError that names all that is missing, each with the option that gives it."""
    absent = [] if "loss" in sources else ["loss"]
    has_size = "n_params" in sources or "n_active_params" in sources
    if not has_size and not any(name in _SIZES for name in needs):
        absent.append("n_params")
    absent += [
        name
        for name in dict.fromkeys(needs)
        if name not in (*sources, *absent)
        and not (name in _SIZES and has_size)
        and not _follows(name, sources, flops)
    ]
    if not absent:
        return
    said = ["n_params or n_active_params" if name == "n_params" else name for name in absent]
    named = setting("columns", dict.fromkeys(absent, "MY_NAME"))
    others = {"budget", "n_tokens"} & set(absent)
    by_6nd = len(others) == 1 and bool({"budget", "n_tokens"} & set(sources)) and flops is None
    remedy = f", or {others.pop()} by {setting('flops', '6nd')}" if by_6nd else ""
    if len(frame.columns) == 1:
        other = setting("separator", "tab")
        remedy += f"; it is one column: is its separator another? e.g. {other}"
    raise ValueError(
        f"no column {', '.join(said)}; found {_listed(frame)}; "
        f"say which {'they are' if len(absent) > 1 else 'it is'}: {named}{remedy}"
    )


def _follows(name: str, sources: Mapping[str, Match], flops: str | None) -> bool:
    """Whether a budget or a number of tokens can be derived from other columns."""
    other = {"budget": "n_tokens", "n_tokens": "budget"}.get(name)
    return other in sources and ("flops_per_token" in sources or flops == "6nd")


def _listed(frame: pd.DataFrame) -> str:
    return join_first([str(name) for name in frame.columns], _LISTED)


def cast_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Frame with COLUMNS and a layer's settings typed: float64, Int64, string, or boolean.

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
    typed |= {name: as_setting(frame[name]) for name in map(str, frame) if name.startswith(PREFIX)}
    return pd.DataFrame(typed, index=frame.index)


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    given = frame[name]
    plain = isinstance(given.dtype, np.dtype) and given.dtype.kind in "iuf"
    numbers = given if plain else _parsed(frame, name)
    if name not in WHOLE:
        return numbers.astype("float64")
    fractions = numbers.notna() & (numbers % 1 != 0)  # infinity too
    refuse(frame, name, fractions, "must be a whole number")
    refuse(frame, name, numbers.abs() >= 2.0**63, "must be below 2**63; is this its column?")
    return numbers.astype("Int64")


def _parsed(frame: pd.DataFrame, name: str) -> pd.Series:
    """Numbers of a column that may have text. Raises ValueError where it is no number."""
    values = frame[name].astype(object)
    numbers = pd.to_numeric(values, errors="coerce")
    if values.isna().all():
        return numbers
    blank = values.isna() | values.astype(str).str.strip().str.lower().isin(["", "nan"])
    text = numbers.isna() & ~blank
    if text.any():
        commas = text & values.astype(str).str.contains(r"\d,\d")
        rule = "has a comma: a point is for decimals, and nothing for thousands"
        refuse(frame, name, commas, rule)
        refuse(frame, name, text, "is text; a plain number is wanted, e.g. 7e9")
    return numbers


def _booleans(frame: pd.DataFrame, name: str) -> pd.Series:
    text = frame[name].astype("string").str.strip().str.lower()
    values = text.map({"true": True, "1": True, "1.0": True, "false": False, "0": False})
    refuse(frame, name, values.isna() & text.notna() & (text != ""), "must be True or False")
    return values.astype("boolean")
