"""A search's questions and answers: a study of Optuna's for each cell, all in one journal,
results/<sweep>/search.journal.

Whoever writes holds the sweep's lock (manifest.submitting). A trial that is running in the journal
is a point to be run: its parameters say which, so a controller that is killed at any instant loses
none. Each draw has a generator of its own, seeded by the search's seed and the number of trials:
what is drawn depends on the journal alone, and not on how often the command was given.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.records.files import DamagedError
from experiments.sweep.objective import Objective
from experiments.sweep.space import Space
from experiments.system.disk import opened, refuse_links, sync_file
from experiments.system.regular_files import read_regular
from experiments.system.version import install

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

JOURNAL_NAME = "search.journal"
_REMEDY = "move it away; the same command then asks again, and runs nothing twice"
SAMPLERS = ("tpe", "gp", "random")
# Random trials before the sampler learns, where fewer than two are given. With Optuna's 10, eight
# trials of one rate would all be random.
_N_STARTUP = 4
_RUNS, _CONTROLLER, _AGAIN, _WHY = "runs", "controller", "again", "why"  # attributes of a trial

State = Literal["waiting", "running", "complete", "failed"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a search looks for what. n_trials: of each cell."""

    spaces: Mapping[str, Space]
    n_trials: int
    objective: Objective
    sampler: str
    seed: int

    def given(self) -> dict[str, Any]:
        """Ranges as space.read_spaces reads them."""
        spaces = self.spaces.items()
        return {n: list(s.ends) if s.kind == "choice" else s.text for n, s in spaces}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as the journal has it. runs: ids of its points. controller: who starts them. again:
    the number of the trial that it tries again. why: the reason of a failed one.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    value: float | None
    runs: tuple[str, ...]
    controller: str | None
    again: int | None
    why: str

    @property
    def is_dropped(self) -> bool:
        """Whether its controller was killed before all its values were written."""
        return self.state == "failed" and not self.why


def check_installed() -> None:
    """Raises ValueError without Optuna."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ValueError(
            f"a search (hydra.sweeper.search) needs Optuna: {install('search')}"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Start:
    """Beginning of a cell's search. lowest: its runs at the lowest ends of the ranges, which
    stand for its whole config. first: values of the trials that are asked first.
    """

    lowest: Sequence[str]
    first: Sequence[Mapping[str, Any]]


class Studies:
    """Studies of a sweep's search, by cell."""

    def __init__(self, sweep_dir: Path, rules: Rules, cells: Mapping[str, Start]) -> None:
        """Makes those that are missing.

        Raises ValueError if a cell was begun by other rules or with another config.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of a package it does without
        self.rules = rules
        self._first = {cell: start.first for cell, start in cells.items()}
        self._distributions = {n: s.distribution() for n, s in rules.spaces.items()}
        path = sweep_dir / JOURNAL_NAME
        _cut_torn_line(path)
        is_new = not path.exists()
        self._storage = _storage(path)
        if is_new:
            sync_file(sweep_dir)  # Optuna sees to its lines alone
        rules_of = {
            "search": rules.given(),
            "objective": rules.objective.name,
            "direction": rules.objective.direction,
        }
        given = {cell: {**rules_of, "lowest": list(s.lowest)} for cell, s in cells.items()}
        known = {s.study_name: s.user_attrs for s in self._storage.get_all_studies()}
        for cell in set(given) & set(known):
            _check_same(path, cell, known[cell], given[cell])
        self._studies = {}
        for cell in cells:
            study = self._studies[cell] = _study(self._storage, cell, rules, cell in known)
            for name, value in {**given[cell], "n_trials": rules.n_trials}.items():
                if study.user_attrs.get(name) != value:
                    study.set_user_attr(name, value)

    def trials(self, cell: str) -> list[Trial]:
        """All of a cell, in order of their numbers."""
        return read_trials(self._studies[cell])

    def n_to_ask(self, cell: str) -> int:
        """How many trials of a cell are not begun."""
        return n_to_ask(self.trials(cell), self.rules.n_trials)

    def first_left(self, cell: str) -> list[Mapping[str, Any]]:
        """First values that no trial has had; none while a trial waits, which comes before."""
        whole = [trial for trial in self.trials(cell) if not trial.is_dropped]
        if any(trial.state == "waiting" for trial in whole):
            return []
        tried = [trial.params for trial in whole]
        return [values for values in self._first[cell] if not is_tried(values, tried)]

    def ask(self, cell: str, values: Mapping[str, Any] | None = None) -> Trial:
        """A new trial of these values, of first_left; None: one that waits to be tried again, or
        the next of first_left, or a drawn one.
        """
        study = self._studies[cell]
        queued = self.first_left(cell)[:1] if values is None else [values]
        for one in queued:
            study.enqueue_trial(dict(one))
        n_whole = sum(not trial.is_dropped for trial in read_trials(study))
        sampler = self._sampler(n_whole, len(self._first[cell]))
        study.sampler = _rounding(sampler, self.rules.spaces)
        with warnings.catch_warnings():  # a run that diverged is infinitely bad: the GP clips it
            warnings.filterwarnings("ignore", message="Clip non-finite values")
            asked = study.ask(self._distributions)
        return _trial(study.get_trials(deepcopy=False)[asked.number])

    def again(self, cell: str, trial: Trial) -> None:
        """Has a finished trial tried again, as a new one that counts instead of it."""
        self._studies[cell].enqueue_trial(dict(trial.params), {_AGAIN: trial.number})

    def begin(self, cell: str, trial: Trial, runs: Sequence[str], controller: str) -> None:
        """Notes which runs are the trial's, and who starts them."""
        if (list(runs), controller) != (list(trial.runs), trial.controller):
            self._note(cell, trial, **{_RUNS: list(runs), _CONTROLLER: controller})

    def tell(self, cell: str, trial: Trial, value: float) -> None:
        """Objective of a trial; infinite for one that diverged."""
        self._studies[cell].tell(trial.number, value)

    def fail(self, cell: str, trial: Trial, why: str) -> None:
        """A trial without an objective, which teaches the sampler nothing. why: "" of one that has
        not all its values; it counts for nothing.
        """
        from optuna.trial import TrialState

        if why:
            self._note(cell, trial, **{_WHY: why})
        self._studies[cell].tell(trial.number, state=TrialState.FAIL)

    def _note(self, cell: str, trial: Trial, **attributes: Any) -> None:
        trial_id = self._studies[cell].get_trials(deepcopy=False)[trial.number]._trial_id
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(trial_id, name, value)

    def _sampler(self, n_trials: int, n_first: int) -> "BaseSampler":
        import numpy as np
        from optuna import samplers

        seed = int(np.random.SeedSequence([self.rules.seed, n_trials]).generate_state(1)[0])
        n_startup = n_first if n_first > 1 else _N_STARTUP
        if self.rules.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.rules.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=n_startup)
        with warnings.catch_warnings():  # Optuna 4 calls two of these experimental
            warnings.simplefilter("ignore")
            return samplers.TPESampler(
                seed=seed, n_startup_trials=n_startup, multivariate=True, constant_liar=True
            )


def _study(storage: "JournalStorage", cell: str, rules: Rules, is_known: bool) -> "optuna.Study":
    """A cell's; Optuna would write a line if asked to make one that is there."""
    import optuna

    if is_known:
        return optuna.load_study(study_name=cell, storage=storage)
    direction = rules.objective.direction
    return optuna.create_study(study_name=cell, storage=storage, direction=direction)


def _check_same(path: Path, cell: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ValueError if trials told before answer another question."""
    remedy = f"give sweep=... another name, or move {path} away: runs that are done stay done"
    for name, value in given.items():
        if known.get(name, value) == value:
            continue
        if name == "lowest":
            raise ValueError(
                f"{cell} was searched before with other settings: its run at the lowest ends is "
                f"{', '.join(value)}, and was {', '.join(known[name])}; {remedy}"
            )
        raise ValueError(
            f"hydra.sweeper.{name}={value}, and {cell} was searched with {known[name]}; {remedy}"
        )


def read_studies(sweep_dir: Path) -> "list[optuna.Study]":
    """Studies of a sweep's journal, in the order of their beginning; writes nothing."""
    import optuna

    storage = _storage(sweep_dir / JOURNAL_NAME)
    studies = sorted(storage.get_all_studies(), key=lambda s: s._study_id)
    return [optuna.load_study(study_name=s.study_name, storage=storage) for s in studies]


def read_trials(study: "optuna.Study") -> list[Trial]:
    """All trials, in order of their numbers."""
    return [_trial(trial) for trial in study.get_trials(deepcopy=False)]


def counted(trials: Sequence[Trial]) -> list[Trial]:
    """Trials without those that another one tries again, and without dropped ones."""
    whole = [trial for trial in trials if not trial.is_dropped]
    replaced = {trial.again for trial in whole}
    return [trial for trial in whole if trial.number not in replaced]


def is_tried(values: Mapping[str, Any], tried: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of these trials' parameters has these values, and any of the keys left out."""
    return any(values.items() <= params.items() for params in tried)


def n_to_ask(trials: Sequence[Trial], n_trials: int) -> int:
    """How many of n_trials are not begun; those that wait to be tried again too."""
    n_waiting = sum(trial.state == "waiting" for trial in trials)
    return max(0, n_trials - len(counted(trials))) + n_waiting


def _trial(frozen: "FrozenTrial") -> Trial:
    states: dict[str, State] = {
        "WAITING": "waiting",
        "RUNNING": "running",
        "COMPLETE": "complete",
    }
    attributes = frozen.user_attrs
    return Trial(
        number=frozen.number,
        state=states.get(frozen.state.name, "failed"),
        params=dict(frozen.params) or dict(frozen.system_attrs.get("fixed_params", {})),
        value=frozen.value,
        runs=tuple(attributes.get(_RUNS, ())),
        controller=attributes.get(_CONTROLLER),
        again=attributes.get(_AGAIN),
        why=attributes.get(_WHY, ""),
    )


def _rounding(sampler: "BaseSampler", spaces: Mapping[str, Space]) -> "BaseSampler":
    """Sampler with its values rounded, so that journal and config have the same number."""
    from optuna.samplers import BaseSampler

    class Rounding(BaseSampler):
        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return sampler.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            drawn = sampler.sample_relative(study, trial, search_space)
            return {name: spaces[name].rounded(value) for name, value in drawn.items()}

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            drawn = sampler.sample_independent(study, trial, name, distribution)
            return spaces[name].rounded(drawn)

    return Rounding()


class _HeldAlready:
    """Stands for Optuna's lock of a journal, which would outlive a killed process by 30 s."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _storage(path: Path) -> "JournalStorage":
    """Raises DamagedError if the journal can't be read."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _check_lines(path)
    refuse_links(path)  # Optuna writes there
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_HeldAlready()))  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(path, f"not a journal of Optuna: {error}", _REMEDY) from error


def _check_lines(path: Path) -> None:
    """Optuna would find a bad last line only when it has written the next one."""
    if not path.exists():
        return
    for number, line in enumerate(read_regular(path).splitlines(keepends=True), 1):
        try:
            is_whole = not line.endswith(b"\n") or isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            is_whole = False
        if not is_whole:
            raise DamagedError(path, f"line {number} is not Optuna's: {line[:20]!r}", _REMEDY)


def _cut_torn_line(path: Path) -> None:
    """A line cut short, by a power loss or a full disk, was confirmed to nobody: it goes."""
    if path.exists():
        content = read_regular(path)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with opened(path, "r+b") as file:
                file.truncate(whole)
