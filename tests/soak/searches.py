"""Sweeps that make points of their own: a trunk for its branches, and the trials of a search."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.language.trunks import make_trunks
from experiments.points.planning import make_point
from experiments.sweep.objective import Objective
from experiments.sweep.queues.local import Local
from experiments.sweep.search import Cell, Search
from experiments.sweep.search_runs import run_search
from experiments.sweep.search_table import read_cells
from experiments.sweep.space import read_spaces
from experiments.sweep.study import Rules
from tests.soak.judge import DIFFERING, Problem
from tests.soak.points import Case, Points
from tests.soak.stage import Sweep
from tests.soak.trials import Trial


class Whole(Sweep):
    """A sweep whose runs are known once it has been run undisturbed."""

    def expected(self) -> dict[str, Any]:
        name = f"{self.name}-{self.cases[0].run_id}"
        folder = self.points.folder / f"reference-{name}"
        return self.points.kept(
            name, lambda: type(self)(folder, self.points, self.cases).undisturbed()
        )

    def problems(self, trial: Trial) -> Iterator[Problem]:
        yield from super().problems(trial)
        others = {path.parent.name for path in self.sweep_dir.glob("*/record.json")}
        if others != set(trial.expected["runs"]):
            yield Problem(kind=DIFFERING, text=f"there are other runs: {sorted(others)}")


class Branches(Whole):
    """Two branches of one trunk, which the sweep trains first."""

    name = "branches"

    @staticmethod
    def cases_of(points: Points, seed: int) -> list[Case]:
        """Of 40 and 75 steps, and their trunk."""
        branches = [points.case("branch", seed, n_steps) for n_steps in (40, 75)]
        (trunk,) = make_trunks([make_point(case.raw) for case in branches])
        return [*branches, points.case_of(trunk.raw, f"trunk seed={seed}", is_made=True)]


class SearchStage(Whole):
    """Four trials of a rate, two at a time; which they are depends on the journal alone."""

    name = "search"

    def run(self) -> None:
        def compose(words: Sequence[str]) -> list[dict[str, Any]]:
            case = self.points.case("dense", 0, overrides=tuple(words))
            return [case.placed(self.results, self.cache)]

        rules = Rules(
            spaces=read_spaces({"ladder.lr": "log(2e-3, 4e-2)"}),
            n_trials=4,
            objective=Objective(name="val_loss", direction="minimize"),
            sampler="random",
            seed=0,
        )
        run_search(Search([Cell(name="all", compose=compose)], rules), Local(n_workers=2))

    def left(self) -> dict[str, Any]:
        return {**super().left(), "trials": _trials(self.sweep_dir)}

    def problems(self, trial: Trial) -> Iterator[Problem]:
        yield from super().problems(trial)
        found = _trials(self.sweep_dir)
        if found != trial.expected["trials"]:
            yield Problem(kind=DIFFERING, text=f"trials {found}, not {trial.expected['trials']}")


def _trials(sweep_dir: Path) -> list[list[Any]]:
    """Their values, and what came of them."""
    trials = [trial for cell in read_cells(sweep_dir) for trial in cell.trials]
    return sorted([[list(item) for item in trial.params.items()], trial.value] for trial in trials)
