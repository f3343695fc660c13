"""A search as people read it: a line a cell. Reads the journal and the records; writes nothing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.records.finished import find_outcome
from experiments.records.record import ENDED
from experiments.sweep.objective import Objective, combine_results
from experiments.sweep.space import read_spaces
from experiments.sweep.states import SweepState, read_sweep
from experiments.sweep.study import (
    JOURNAL_NAME,
    Trial,
    check_installed,
    counted,
    n_to_ask,
    read_studies,
    read_trials,
)
from experiments.system.text_table import aligned

_OVER = (*ENDED, "failed", "damaged")  # states
_EDGE = 0.05  # of a range, at either end
_COUNTS = ("done", "diverged", "hopeless", "failed", "running", "left")


@dataclass(frozen=True, kw_only=True)
class CellState:
    """A cell's search. trials: those that count; a record that the study does not know yet has
    given its trial's value. rules: the attributes of its study, of which the objective is made.
    n_hopeless: trials of a run that was stopped as hopeless; they have no value.
    """

    name: str
    rules: dict[str, Any]
    objective: Objective
    trials: tuple[Trial, ...]
    n_left: int
    n_hopeless: int = 0

    def counts(self) -> dict[str, int]:
        """How many trials are done, diverged, hopeless (if any is), failed, running and left."""
        values = [trial.value for trial in self.trials if trial.value is not None]
        n_infinite = sum(map(math.isinf, values))
        n_failed = sum(trial.state == "failed" for trial in self.trials)
        n_running = sum(t.state == "running" and t.value is None for t in self.trials)
        n_diverged = n_infinite - self.n_hopeless
        numbers = n_diverged, self.n_hopeless, n_failed, n_running, self.n_left
        found = dict(zip(_COUNTS, (len(values) - n_infinite, *numbers), strict=True))
        return {name: n for name, n in found.items() if n or name != "hopeless"}

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing is left."""
        counts = self.counts()
        return not counts["running"] and not counts["left"]

    def best(self) -> Trial | None:
        """Trial with the best finite value."""
        sign = 1 if self.objective.direction == "minimize" else -1
        done = [(sign * t.value, t.number, t) for t in self.trials if t.value is not None]
        finite = [each for each in done if math.isfinite(each[0])]
        return min(finite)[2] if finite else None


def read_cells(sweep_dir: Path) -> list[CellState]:
    """Cells of a sweep's search, in the order of their beginning; none without a search.

    Raises ValueError if Optuna is not installed, or the journal is damaged.
    """
    if not (sweep_dir / JOURNAL_NAME).exists():
        return []
    check_installed()
    cells = []
    for study in read_studies(sweep_dir):
        rules = {**study.user_attrs}
        if "n_trials" not in rules:  # a controller was killed as it began this one
            continue
        trials = read_trials(study)
        objective = Objective(name=rules["objective"], direction=rules["direction"])
        known = [_with_record(sweep_dir, trial, objective) for trial in counted(trials)]
        cells.append(
            CellState(
                name=study.study_name,
                rules=rules,
                objective=objective,
                trials=tuple(known),
                n_left=n_to_ask(trials, rules["n_trials"]),
                n_hopeless=sum(_is_hopeless(sweep_dir, trial) for trial in known),
            )
        )
    return cells


def read_all(sweep_dir: Path) -> tuple[SweepState, list[CellState], list[str]]:
    """States of a sweep's points and of the cells of its search, and why these can't be read."""
    sweep = read_sweep(sweep_dir)
    try:
        return sweep, read_cells(sweep_dir), []
    except ValueError as error:
        return sweep, [], [str(error)]


def is_over(sweep: SweepState, cells: Sequence[CellState]) -> bool:
    """Whether nothing runs, and nothing is left that would run by itself or by the same command;
    what failed is over.
    """
    return all(p.state in _OVER for p in sweep.points) and all(cell.is_over for cell in cells)


def _is_hopeless(sweep_dir: Path, trial: Trial) -> bool:
    """Whether it has no value because a run of its was stopped; one that diverged counts more."""
    if trial.value is None or math.isfinite(trial.value):
        return False
    ends = [find_outcome(sweep_dir / run_id) for run_id in trial.runs]
    statuses = {end.status for end in ends if end is not None}
    return "hopeless" in statuses and "diverged" not in statuses


def _with_record(sweep_dir: Path, trial: Trial, objective: Objective) -> Trial:
    """A running trial whose runs are done has their value, told or not."""
    if trial.state != "running" or not trial.runs:
        return trial
    result = combine_results([sweep_dir / run_id for run_id in trial.runs], objective)
    return trial if result is None else replace(trial, value=result.value)


@dataclass(frozen=True, kw_only=True)
class SearchTable:
    """Cells of one objective and one set of ranges. rows: below a head; notes: what to look at."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def search_tables(cells: Sequence[CellState]) -> list[SearchTable]:
    """A table for each objective and ranges, a row a cell."""
    groups: dict[str, list[CellState]] = {}
    for cell in cells:
        ranges = ", ".join(f"{name} {text}" for name, text in cell.rules["search"].items())
        least = "lowest" if cell.objective.direction == "minimize" else "highest"
        groups.setdefault(f"search: {least} {cell.objective.name} of {ranges}", []).append(cell)
    tables = []
    for title, group in groups.items():
        names = list(group[0].rules["search"])
        shown = [c for c in _COUNTS if c != "hopeless" or any(cell.n_hopeless for cell in group)]
        head = ("cell", *shown, f"best {group[0].objective.name}", *names, "run")
        rows = (head, *(_row(cell, names, shown) for cell in group))
        notes = tuple(note for cell in group for note in _notes(cell))
        tables.append(SearchTable(title=title, rows=rows, notes=notes))
    return tables


def search_lines(cells: Sequence[CellState]) -> list[str]:
    """Tables as lines."""
    return [
        line
        for table in search_tables(cells)
        for line in (table.title, *aligned(table.rows), *table.notes)
    ]


def search_rows(cells: Sequence[CellState]) -> list[dict[str, Any]]:
    """An object a cell, as JSON has it: what is searched, how many trials stand where, the best."""
    rows = []
    for cell in cells:
        best, found = cell.best(), None
        if best is not None:
            found = {"value": best.value, "params": dict(best.params), "runs": list(best.runs)}
        rules = {name: cell.rules[name] for name in ("search", "objective", "direction")}
        rows.append({"cell": cell.name, **rules, **cell.counts(), "best": found})
    return rows


def _row(cell: CellState, names: Sequence[str], shown: Sequence[str]) -> tuple[str, ...]:
    found = cell.counts()
    counts = tuple(str(found.get(name) or "") for name in shown)
    best = cell.best()
    if best is None:
        return (cell.name, *counts, *("" for _ in range(len(names) + 2)))
    values = (_short(best.params.get(name)) for name in names)
    return (cell.name, *counts, f"{best.value:.5g}", *values, ",".join(best.runs))


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _notes(cell: CellState) -> list[str]:
    """Failures, and a best value at the end of its range once the search is over."""
    notes = []
    failed = [trial for trial in cell.trials if trial.state == "failed"]
    if failed:
        where = ", ".join(f"{name}={_short(v)}" for name, v in failed[-1].params.items())
        notes.append(f"note: {cell.name}: trial with {where} failed: {failed[-1].why}")
    best = cell.best()
    if best is not None and cell.is_over:
        for name, space in read_spaces(cell.rules["search"]).items():
            place = space.place(best.params[name])
            if place is not None and not _EDGE < place < 1 - _EDGE:
                notes.append(
                    f"note: {cell.name}: the best {name}={_short(best.params[name])} is at an end "
                    f"of {space.text}; search further out, in another sweep"
                )
    return notes
