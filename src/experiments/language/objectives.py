"""Numbers of a record that a search may look for, and keys that it may search. Stdlib only."""

import difflib
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any

from experiments.records.record import RunRecord


def check_objective(name: str) -> None:
    """Raises ValueError for a name that is no number of a record.

    <set>.<column> is of a set that eval scores; which columns it has, its record says.
    """
    columns = [n for n, kind in typing.get_type_hints(RunRecord).items() if _is_number(kind)]
    if name not in columns and not re.fullmatch(r"[\w@/-]+\.\w+", str(name)):
        close = difflib.get_close_matches(str(name), columns, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(columns)}"
        raise ValueError(f"hydra.sweeper.objective={name} is no number of a record; {hint}")


def check_fair(keys: Collection[str], name: str) -> None:
    """Raises ValueError for a key of which the objective `name` measures another thing at each
    value, so that the best of them is no better model.
    """
    scored = "." in name  # on a named set, which is the same whatever is trained on
    for key in keys:
        group = next((g for g in _UNFAIR if key == g or key.startswith(_below(g))), None)
        if group is None or (group in _OF_TEXT and scored):
            continue
        if group in _OF_TOKENS and (name == "bits_per_byte" or name.endswith(".bits_per_byte")):
            continue
        raise ValueError(f"hydra.sweeper.search: {key} can't be searched: {_UNFAIR[group]}")


def check_scored(name: str, sets: Collection[str]) -> None:
    """Raises ValueError for an objective, as wikitext2.loss, of a set that the runs don't score."""
    scored = name.partition(".")[0].partition("@")[0].partition("/")[0]
    if "." in name and scored not in sets:
        raise ValueError(
            f"hydra.sweeper.objective={name}, and the runs score {', '.join(sets) or 'no set'}; "
            f"give eval=[{scored}] too"
        )


def _below(group: str) -> str:
    """Beginning of a group's keys. In data the choice alone is the text."""
    return f"{group}." if group != "data" else "data.corpus."


_OF_TEXT = ("data", "data.corpus")
_OF_TOKENS = ("ladder.vocab_size", "data.tokenizer", "tokenizer")
_WINDOWS = "windows of another length are scored at each value; give all trials one"
_TOKENS = (
    "losses a token of different tokenizers can't be compared; set "
    "hydra.sweeper.objective=bits_per_byte"
)
_TEXT = (
    "the held-out text is another at each value; set hydra.sweeper.objective=SET.loss, of a set of "
    "eval"
)
_SCORED = "another part of the held-out text is scored at each value; give all trials one"
_UNFAIR: Mapping[str, str] = {
    "seed": "seeds differ by chance, and the best of them is luck; seed=0,1,2 averages over them",
    "budget": "a larger one is better, whatever else is; give all trials one, or search each",
    "data.n_eval_tokens": _SCORED,
    "data.max_validation_tokens": _SCORED,
    "eval": _SCORED,
    "evaluation": _SCORED,
    "ladder.seq_len": _WINDOWS,
    "data.seq_len": _WINDOWS,
    **dict.fromkeys(_OF_TOKENS, _TOKENS),
    **dict.fromkeys(_OF_TEXT, _TEXT),
}


def _is_number(kind: Any) -> bool:
    options = set(typing.get_args(kind) or (kind,)) - {type(None)}
    return bool(options) and options <= {int, float}
