"""A search on a sweep's own queue: its trials are points like any other, asked for one by one.

Whoever has the sweep's lock tells the study what has a record by now, and asks for as many new
trials as there is room for (search_runs.py). Several controllers may do so
at once: a trial's controller starts its points, and when that process is gone another one does.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.records.record import ENDED
from experiments.sweep.app import FIRST, Raw, app_of
from experiments.sweep.control import is_controller, own_name
from experiments.sweep.objective import Result, combine_results
from experiments.sweep.planning import (
    plan_points,
    read_status,
    set_aside_diverged,
)
from experiments.sweep.point import Point
from experiments.sweep.search_table import read_cells
from experiments.sweep.study import Rules, Start, Studies, Trial, counted, is_tried


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A part of the grid that is searched by itself. compose(overrides): its points' configs, one
    a seed, with these values of the searched keys. first: the values of them that the grid has,
    which are tried first; a key that is left out is drawn.
    """

    name: str
    compose: Callable[[Sequence[str]], Sequence[Raw]]
    first: Sequence[Mapping[str, Any]] = ()


class Search:
    """Cells, the rules, and after `begin` the studies."""

    def __init__(self, cells: Sequence[Cell], rules: Rules, place: str = FIRST) -> None:
        """place: that of the app whose runs they are."""
        self._place = place
        self.cells, self.rules = {cell.name: cell for cell in cells}, rules
        self._points: dict[tuple[str, tuple[Any, ...]], tuple[Point, ...]] = {}
        self._lowest: dict[str, list[Point]] = {}
        self.ends: list[Point] = []  # the points at all ends of the ranges, after check
        self._studies: Studies | None = None
        self._retry = "failed"

    def check(self) -> list[Point]:
        """Points at the lower ends of all ranges, after planning those at the other ends too.

        Raises ValueError for one that can't be run, and for a key that makes no other run.
        """
        for cell in self.cells.values():
            base = {name: space.ends[0] for name, space in self.rules.spaces.items()}
            points = self._plan(cell, base)
            app = app_of(points)
            app.check_scored(points[0], self.rules.objective.name)
            for name, space in self.rules.spaces.items():
                for end in space.ends[1:]:
                    others = self._plan(cell, {**base, name: end})
                    self.ends += others
                    if app.run_id_of_result(others[0]) == app.run_id_of_result(points[0]):
                        raise ValueError(
                            f"hydra.sweeper.search: {name} makes no other run of {cell.name}: all "
                            "its trials would be one; search what can change the result"
                        )
            self._lowest[cell.name] = points
            self.ends += points
        return [point for points in self._lowest.values() for point in points]

    def describe(self) -> str:
        """How many trials there are."""
        n, cells = self.rules.n_trials, len(self.cells)
        return f"{n * cells} trials" + (f", {n} of each of {cells} cells" if cells > 1 else "")

    def plan_text(self) -> str:
        """Dry run's table, after check."""
        points = [point for points in self._lowest.values() for point in points]
        states = {state.name: state.trials for state in read_cells(self.sweep_dir)}
        n_known = {name: self._n_known(name, states.get(name, ())) for name in self.cells}
        total = sum(
            (self.rules.n_trials - n_known[name]) * sum(p.work_before + p.own_work for p in lowest)
            for name, lowest in self._lowest.items()
        )
        known = sum(n_known.values())
        text = f"search: these at other values too, {self.describe()}, "
        text += f"{known} of them known already, " if known else ""
        app = app_of(points)
        return f"{app.plan_text(points)}\n{text}{total:.3g} {app.unit}"

    def _n_known(self, cell: str, trials: Sequence[Trial]) -> int:
        """How many trials of a cell have a value: by the journal, whose trials these are, or by the
        records of the grid's values.
        """
        tried = [trial.params for trial in trials]
        left = [values for values in self.cells[cell].first if not is_tried(values, tried)]
        n_told = sum(trial.value is not None for trial in trials)
        n_first = sum(self._result(cell, values) is not None for values in left)
        return min(self.rules.n_trials, n_told + n_first)

    def begin(self) -> None:
        """Opens the studies, or makes them, and tells the grid's values that have their records:
        they are no work. Only under the sweep's lock, as all that follows.
        """
        starts = {
            name: Start(lowest=[p.run_id for p in points], first=self.cells[name].first)
            for name, points in self._lowest.items()
        }
        self._studies = Studies(self.sweep_dir, self.rules, starts)
        for cell in self.cells:
            for values in self.studies.first_left(cell):
                if self.studies.n_to_ask(cell) and self._result(cell, values):
                    self._begin(cell, self.studies.ask(cell, values))

    def _result(self, cell: str, values: Mapping[str, Any]) -> Result | None:
        """Result of these values in the records; None without them, or if a key is left out."""
        if set(values) != set(self.rules.spaces):
            return None
        try:
            points = self._planned(cell, values)
        except ValueError:  # a trial of them fails, and says so
            return None
        return combine_results([point.run_dir for point in points], self.rules.objective)

    @property
    def sweep_dir(self) -> Path:
        """After check."""
        return next(iter(self._lowest.values()))[0].sweep_dir

    @property
    def studies(self) -> Studies:
        """After begin."""
        assert self._studies is not None
        return self._studies

    def tell(self, busy: Collection[str], given_up: Mapping[str, str]) -> None:
        """Tells every running trial whose runs have ended. busy: runs that a queue has.

        given_up: runs that this controller has tried and won't try again, and why. Of a controller
        that is gone the failed records say so; those of one that is there are its own to judge, for
        a run that is about to be tried again has a failed record too.
        """
        for cell, trial, points in self._running():
            own = trial.controller == own_name()
            gone = not own and not is_controller(self.sweep_dir, trial.controller)
            dirs = [point.run_dir for point in points]
            result = combine_results(
                dirs, self.rules.objective, busy, given_up if own else {}, failed_counts=gone
            )
            if result is not None:
                self._tell(cell, trial, result)

    def _tell(self, cell: str, trial: Trial, result: Result) -> None:
        if result.value is None:
            self.studies.fail(cell, trial, result.why)
        else:
            self.studies.tell(cell, trial, result.value)

    def try_again(self) -> None:
        """Has failed trials tried again, and with retry=all those that diverged, from the start;
        with retry=none nothing. Once a command, before it asks.
        """
        if self._retry == "none":
            return
        for name, cell in self.cells.items():
            for trial in counted(self.studies.trials(name)):
                if trial.state == "failed" and trial.runs:  # without: its point was refused
                    self.studies.again(name, trial)
                elif self._retry == "all" and trial.value is not None and math.isinf(trial.value):
                    set_aside_diverged(self._plan(cell, trial.params, again="all"))
                    self.studies.again(name, trial)

    def ask(self, n: int | None) -> None:
        """Begins new trials, of the cell with the fewest first, until n points more are to be run;
        None: until each cell has a trial that runs. One whose record is there is told at once.
        """
        while n is None or n > 0:
            found = {name: self.studies.trials(name) for name in self.cells}
            cells = [name for name in self.cells if self.studies.n_to_ask(name)]
            if n is None:
                cells = [c for c in cells if not any(t.state == "running" for t in found[c])]
            if not cells:
                return
            cell = min(cells, key=lambda c: sum(t.state != "waiting" for t in counted(found[c])))
            n_points = self._begin(cell, self.studies.ask(cell))
            if n is not None:
                n -= n_points

    def _begin(self, cell: str, trial: Trial) -> int:
        """Begins a new trial, or tells it if its records are there; returns how many points it has
        to run.
        """
        points = self._find_points(cell, trial)
        if points is None:
            return 0
        self.studies.begin(cell, trial, [point.run_id for point in points], own_name())
        result = combine_results([point.run_dir for point in points], self.rules.objective)
        if result is None:
            return len(points)
        self._tell(cell, trial, result)
        return 0

    def to_start(self, taken: Collection[str]) -> list[Point]:
        """Points of running trials that are this controller's to start, but for those taken.

        It takes over the trials of a controller that is gone.
        """
        found: dict[str, Point] = {}
        for cell, trial, points in self._running():
            if trial.controller != own_name() and is_controller(self.sweep_dir, trial.controller):
                continue
            self.studies.begin(cell, trial, [point.run_id for point in points], own_name())
            found |= {p.run_id: p for p in points if p.run_id not in taken}
        return list(found.values())

    def running(self) -> list[Point]:
        """Points of running trials, of whichever controller, that are not finished."""
        found = {p.run_id: p for _, _, points in self._running() for p in points}
        return [p for p in found.values() if read_status(p.run_dir) not in ENDED]

    def n_open(self) -> int:
        """How many trials have no value yet, of all cells."""
        return sum(self._n_open(cell) for cell in self.cells)

    def expected(self) -> list[Point]:
        """Points like those that are still to come."""
        return [p for cell, points in self._lowest.items() for p in points * self._n_open(cell)]

    def _n_open(self, cell: str) -> int:
        running = sum(trial.state == "running" for trial in self.studies.trials(cell))
        return running + self.studies.n_to_ask(cell)

    def _running(self) -> Iterator[tuple[str, Trial, tuple[Point, ...]]]:
        for cell in self.cells:
            for trial in self.studies.trials(cell):
                if trial.state != "running":
                    continue
                if set(trial.params) != set(self.rules.spaces):
                    self.studies.fail(cell, trial, "")  # it is dropped
                elif (points := self._find_points(cell, trial)) is not None:
                    yield cell, trial, points

    def _find_points(self, cell: str, trial: Trial) -> tuple[Point, ...] | None:
        """A trial's points; None, and the trial has failed, if its values are refused."""
        try:
            return self._planned(cell, trial.params)
        except ValueError as error:
            self.studies.fail(cell, trial, str(error))
            return None

    def _planned(self, cell: str, params: Mapping[str, Any]) -> tuple[Point, ...]:
        """Points of these values, planned once. Raises ValueError if they are refused."""
        key = cell, tuple(sorted(params.items()))
        if key not in self._points:
            self._points[key] = tuple(self._plan(self.cells[cell], params))
        return self._points[key]

    def _plan(self, cell: Cell, params: Mapping[str, Any], again: str = "failed") -> list[Point]:
        """Points of these values. Their retry is not the config's: what is tried again is
        try_again's to say, and a diverged run that has been told stays as it is.
        """
        spaces = self.rules.spaces
        raws = cell.compose([spaces[name].override(value) for name, value in params.items()])
        self._retry = raws[0]["retry"]
        setting = "".join(f" {name.rpartition('.')[2]}={params[name]}" for name in spaces)
        points = plan_points([{**raw, "retry": again} for raw in raws], place=self._place)
        return [replace(point, setting=setting) for point in points]
