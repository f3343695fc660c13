"""Result of a trial's runs, from their records. Standard library only."""

import difflib
import math
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.records.files import RECORD_NAME, DamagedError, read_record
from experiments.records.record import CUT_SHORT, RunRecord, flat_row
from experiments.system.claims import is_claimed

Direction = Literal["minimize", "maximize"]
DIRECTIONS = typing.get_args(Direction)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A column of the record, as records.flat_row has it, and which way is better."""

    name: str
    direction: Direction

    @property
    def worst(self) -> float:
        """Result of a run that diverged or was hopeless. Any finite number would be made up."""
        return math.inf if self.direction == "minimize" else -math.inf

    def of(self, record: RunRecord) -> float | None:
        """A finished run's; None if its record has no such number."""
        if record.status in CUT_SHORT:
            return self.worst
        value = flat_row(record).get(self.name)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return None
        return float(value)


def objective_value(record: RunRecord) -> float | None:
    """Held-out loss, which Hydra's own sweepers are told."""
    return Objective(name="val_loss", direction="minimize").of(record)


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


@dataclass(frozen=True, kw_only=True)
class Result:
    """value: the mean objective, infinite if a run diverged or was hopeless; None if a run has
    none, and why says the reason.
    """

    value: float | None
    why: str = ""


def combine_results(
    run_dirs: Sequence[Path],
    objective: Objective,
    busy: Collection[str] = (),
    given_up: Mapping[str, str] | None = None,
    *,
    failed_counts: bool = False,
) -> Result | None:
    """Result of these runs together; None while one of them is still to end.

    busy: runs that a queue has. given_up: runs that won't be tried again, and why. failed_counts:
    so does a failed record; else its run is about to be tried again.
    """
    results = []
    for run_dir in run_dirs:
        result = _result(run_dir, objective, busy, given_up or {}, failed_counts)
        if result is None:
            return None
        results.append(result)
    failed = [result for result in results if result.value is None]
    values = [result.value for result in results if result.value is not None]
    return failed[0] if failed else Result(value=sum(values) / len(values))


def _result(
    run_dir: Path,
    objective: Objective,
    busy: Collection[str],
    given_up: Mapping[str, str],
    failed_counts: bool,
) -> Result | None:
    if is_claimed(run_dir):
        return None
    try:
        record = read_record(run_dir / RECORD_NAME)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        record = None
    if record is not None and record.status != "failed":
        value = objective.of(record)
        why = "" if value is not None else f"its record has no number {objective.name}"
        return Result(value=value, why=why)
    if run_dir.name in busy:
        return None
    if run_dir.name in given_up:
        return Result(value=None, why=given_up[run_dir.name])
    if record is not None and failed_counts:
        return Result(value=None, why=(record.error or "failed").strip().splitlines()[-1])
    return None
