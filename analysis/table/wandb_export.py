"""Runs exported from Weights & Biases, with plain columns. W&B itself is not needed.

Two forms: the runs table's "Export CSV", a column for each key of config and summary, and the
CSV of the public API's example script (docs.wandb.ai, "Export data"), two columns of dicts.
"""

import ast
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.fitting.text import pluralize
from analysis.table.checks import refuse
from analysis.table.configs import flattened
from analysis.table.layer import PREFIX
from experiments.records.record import STATUSES, earlier_layer
from experiments.system.json_files import parse_json
from experiments.system.plain_text import printable_values

_STATUS_OF = {"finished": "done", "crashed": "failed", "failed": "failed", "killed": "failed"}
_GOING_ON = ("pending", "running", "preempting", "preempted")
_OURS = "n_active_params"  # a summary with this is of a record; elsewhere model.X is another's
_LAYER = "model."  # a config's section


def from_wandb(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Frame with a column for each key, nested ones dotted; other frames as they are.

    The summary's value goes before the config's of the same key. Runs that have not ended are left
    out, with a note; a summary's status, if it is one of ours, goes before W&B's state.
    """
    if {"config", "summary"} <= set(frame.columns):
        frame = _from_dicts(frame)
    elif {"Name", "State"} <= set(frame.columns):
        frame = _without_prefixes(frame)
    else:
        return frame
    frame = frame.copy()
    for run_id in ("ID", "id"):
        if run_id in frame:
            _fill(frame, "run_id", run_id)
    if _OURS in frame:
        if "model_name" in frame:
            _fill(frame, "model", "model_name")
        frame = _with_layer(frame)
    return _with_status(frame, notes)


def with_states(frame: pd.DataFrame, column: str, notes: list[str]) -> pd.DataFrame:
    """Frame whose column of statuses says ours where it said W&B's, without runs that have not
    ended, which a note counts. Other words stay as they are.
    """
    words = frame[column].astype("string").str.strip().str.lower().fillna("")
    ours = [_STATUS_OF.get(word, own) for word, own in zip(words, frame[column])]
    frame = frame.assign(**{column: ours})
    return _ended(frame, words, words.isin(_GOING_ON), notes)


def _with_layer(frame: pd.DataFrame) -> pd.DataFrame:
    """With what records say of their layer: in summaries, or of earlier ones in the configs."""
    of_config = {
        name: name.removeprefix(_LAYER) for name in map(str, frame) if name.startswith(_LAYER)
    }
    said = [name for name in map(str, frame) if name.startswith(PREFIX)]
    rows = []
    for own, config in zip(
        frame[said].to_dict("records"), frame[list(of_config)].to_dict("records"), strict=True
    ):
        found = {name: value for name, value in own.items() if _is_there(value)}
        if not found:
            model = {of_config[str(k)]: value for k, value in config.items() if _is_there(value)}
            found = {f"{PREFIX}{k}": v for k, v in earlier_layer(model).items()}
        rows.append({name: value for name, value in found.items() if name != f"{PREFIX}n_experts"})
    layer = pd.DataFrame(rows, index=frame.index, dtype=object)
    return pd.concat([frame.drop(columns=said), layer], axis=1)


def _is_there(value: Any) -> bool:
    return bool(pd.notna(value)) and value != ""


def bare_key(name: str) -> str:
    """A column's key without W&B's "summary." or "config."."""
    return name.removeprefix("summary.").removeprefix("config.")


def _with_status(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    state = next((frame[name] for name in ("State", "state") if name in frame), None)
    if state is None:
        return frame
    states = state.astype("string").str.strip().str.lower()
    ours = frame["status"] if "status" in frame else pd.Series(None, frame.index, dtype=object)
    frame["status"] = [
        own if own in STATUSES else _STATUS_OF.get(theirs)
        for own, theirs in zip(ours, states.fillna(""))
    ]
    return _ended(frame, states.fillna("without a state"), frame["status"].isna(), notes)


def _ended(
    frame: pd.DataFrame, states: pd.Series, going_on: pd.Series, notes: list[str]
) -> pd.DataFrame:
    if going_on.any():
        names = ", ".join(sorted(states[going_on].unique()))
        notes.append(f"left out: {pluralize(int(going_on.sum()), 'run')} that W&B calls {names}")
    return frame[~going_on]


def _without_prefixes(frame: pd.DataFrame) -> pd.DataFrame:
    plain: dict[str, pd.Series] = {}
    # The summary's first, the config's last: the first that has a value is taken
    names = map(str, frame.columns)
    for name in sorted(names, key=lambda n: n.startswith("config.") - n.startswith("summary.")):
        bare = bare_key(name)
        plain[bare] = _first_known(plain[bare], frame[name]) if bare in plain else frame[name]
    return pd.DataFrame(plain, index=frame.index)


def _from_dicts(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for i in range(len(frame)):
        row: dict[str, Any] = {}
        for column in ("config", "summary"):
            values = printable_values(_parsed(frame, column, i))
            known = flattened(values).items()
            row |= {k: v for k, v in known if v is not None and not k.startswith("_")}
        rows.append(row)
    flat = pd.DataFrame(rows, index=frame.index)
    others = [c for c in frame.columns if c not in ("config", "summary") and c not in flat]
    return pd.concat([frame[others], flat], axis=1)


def _parsed(frame: pd.DataFrame, column: str, i: int) -> Mapping[str, Any]:
    """A cell's dict, from JSON (json_dict) or from Python's repr, as DataFrame.to_csv writes it."""
    value = frame[column].iloc[i]
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str) or not value.strip():
        return {}  # a run that logged nothing
    try:
        parsed = parse_json(value)
    except ValueError:
        try:
            tree = _Numbers().visit(ast.parse(value.strip(), mode="eval"))
            parsed = ast.literal_eval(tree)
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            parsed = None  # TypeError: a list for a key
    this = pd.Series([n == i and not isinstance(parsed, dict) for n in range(len(frame))])
    refuse(frame, column, this, "is not a dict, in JSON or as Python prints it; export it again")
    return parsed


class _Numbers(ast.NodeTransformer):
    """nan and inf, which Python prints and its literals lack."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node


def _fill(frame: pd.DataFrame, name: str, other: str) -> None:
    """Gaps of one column from another, in place."""
    frame[name] = _first_known(frame[name], frame[other]) if name in frame else frame[other]


def _first_known(first: pd.Series, second: pd.Series) -> pd.Series:
    values = [b if pd.isna(a) else a for a, b in zip(first, second)]
    return pd.Series(values, index=first.index, dtype=object)
