"""Hydra's side of a sweep: it composes the points and hands them all to experiments.sweep.

Hydra's own sweeper writes multirun.yaml before a point is known to be good, and its basic
launcher runs every point in one process, where state leaks from one to the next.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from experiments.config.constraints import shown
from hydra_plugins.experiments_search import RULES, find_value, make_search

if TYPE_CHECKING:
    from experiments.config.composed import Composed
    from experiments.config.composition import Composer
    from experiments.sweep.queue import Queue


class PointSweeper(Sweeper):
    """A grid as of Hydra's basic sweeper, or a union of such grids, handed to the launcher whole.

    params are the values that every grid shares, and each of grids adds its own. The command line
    overrides both, in all grids. A point of two grids is one. Of all these points, `only` names
    the part to run, see select.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
        only: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        n_trials: int | None = None,
        **rules: Any,
    ) -> None:
        self.max_batch_size, self.params, self.grids = max_batch_size, params, grids
        # for the launcher: values are known of composed points alone
        self.only, self.search, self.n_trials = only, search, n_trials
        self.unknown = sorted(map(str, rules.keys() - {*RULES}))

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.place: str | None = getattr(task_function, "place", None)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Composes nothing and writes nothing; returns what the launcher returns."""
        from experiments.sweep.app import find_app

        self._check()
        app = None if self.place is None else find_app(self.place)
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        shared = _words(self.params or {})
        points: list[Sequence[str]] = []
        for grid in self.grids or [{}]:
            own = _words(grid)
            if app is not None:
                for word in (*shared, *own):
                    app.check_word(word)
            # Of one name the last counts, so the command line's beats the grid's
            overrides = parser.parse_overrides([*shared, *own, *arguments])
            for override in overrides:
                _check_discrete(override)
            earlier = {frozenset(point) for point in points}
            points += [point for point in _product(overrides) if frozenset(point) not in earlier]
        return self.launcher.launch(points, initial_job_idx=0)

    def _check(self) -> None:
        """Raises ValueError for settings that are no grids."""
        if self.unknown:
            raise ValueError(
                f"hydra.sweeper.{self.unknown[0]}: unknown key; known: "
                + ", ".join(("params", "grids", "only", "search", "n_trials", *RULES))
            )
        if self.max_batch_size is not None:
            raise ValueError(
                f"hydra.sweeper.max_batch_size={self.max_batch_size} has no effect: points are "
                "planned all at once; leave it out, and set hydra.launcher.n_workers"
            )
        _check_group("params", self.params or {})
        _check_group("only", self.only or {})
        grids = self.grids or []
        if not isinstance(grids, Sequence) or isinstance(grids, str):
            raise ValueError(
                f"hydra.sweeper.grids={grids} must be a list of groups, as [{{size: '1,2'}}]"
            )
        for i, grid in enumerate(grids):
            _check_group(f"grids[{i}]", grid)
        if self.search is None and self.n_trials is not None:
            raise ValueError(
                f"hydra.sweeper.n_trials={self.n_trials} without hydra.sweeper.search, which says "
                "what to search: {ladder.lr: 'log(2e-3, 4e-2)'}"
            )
        if self.search is not None and not isinstance(self.launcher, PointLauncher):
            from experiments.sweep.queue import launchers

            raise ValueError(
                f"hydra.sweeper.search needs hydra/launcher={launchers(of_searches=True)}"
            )


def _check_group(name: str, given: Any) -> None:
    """Raises ValueError for what is no group of keys of the config, with a value or more each."""
    where = f"hydra.sweeper.{name}"
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}={given} must be a group, as {{seed: '0,1'}}")
    for key, value in given.items():
        if not isinstance(key, str):
            raise ValueError(f"{where}: {shown(key)} is no key of the config, as seed is one")
        if isinstance(value, Mapping) or value == []:
            raise ValueError(f"{where}: {key}={value} must be a value, or several as '0,1'")


def _product(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """Each combination of the overrides' values; of one key its last override's."""
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
    return map(list, itertools.product(*values.values()))


def _words(values: Mapping[str, Any]) -> list[str]:
    """Overrides of a group's keys."""
    plain = (None, True, False)
    return [f"{k}={shown(v) if any(v is one for one in plain) else v}" for k, v in values.items()]


def _check_discrete(override: Override) -> None:
    """Raises ValueError for an override without values for a grid."""
    if not override.is_sweep_override():
        return
    given = override.input_line
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{given}: a grid needs single values; use commas, range(1,4) or choice(1,2)"
        )
    if not any(True for _ in override.sweep_string_iterator()):
        raise ValueError(f"{given} has no values, so the sweep has no points; widen it")


def select(points: "Sequence[Composed]", only: Mapping[str, Any]) -> "list[Composed]":
    """Composed points that have, for each name of `only`, its value or one of its list.

    A group's value is the option chosen, e.g. model: [pkm, peer]. Raises ValueError for a name that
    is in no config, and a value that no point has which the names before it left.
    """
    kept = list(points)
    for name, value in only.items():
        wanted = (
            list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        )
        values = [find_value(point, name, "hydra.sweeper.only") for point in kept]
        for one in wanted:
            if one not in values:
                have = ", ".join(str(v) for v in dict.fromkeys(values))
                raise ValueError(f"hydra.sweeper.only: no point has {name}={one}; there are {have}")
        kept = [point for point, found in zip(kept, values, strict=True) if found in wanted]
    return kept


def _returned(value: float | None) -> JobReturn:
    """As a sweeper that asks and tells takes it: Hydra's for Optuna, Ax, Nevergrad."""
    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


class PointLauncher(Launcher):
    """Composes the points and gives them all to a queue: the file of that name in sweep/queues/, of
    which the launcher's other keys are the settings.
    """

    def __init__(self, queue: str, **settings: Any) -> None:
        super().__init__()
        self.name, self.settings = queue, settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps the arguments of launch. Raises CompactHydraException, which Hydra prints as one
        line, for a function of no app of ours.
        """
        self.hydra_context, self.config = hydra_context, config
        self.place: str = getattr(task_function, "place", "")
        if not self.place:
            function = getattr(task_function, "__qualname__", task_function)
            raise CompactHydraException(
                f"hydra/launcher={self.name} runs apps of the experiments package, and {function} "
                "is a plain function of Hydra's: make it the run of an OwnApp (docs/engine.md, "
                "From a plain Hydra app), or leave hydra/launcher out"
            )

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Plans all the points before the first starts; exits with 1 if any of them failed."""
        from experiments.config.hydra_settings import check_sweep
        from experiments.sweep.again import run_again
        from experiments.sweep.app import FIRST

        own = self.place != FIRST
        check_sweep(self.config.hydra, ("none", "default") if own else ("none",))
        queue = self._queue()
        points = self._compose(job_overrides)
        only = OmegaConf.select(self.config, "hydra.sweeper.only")  # another sweeper has none
        kept = select(points, only or {})
        if OmegaConf.select(self.config, "hydra.sweeper.search") is None:
            raws = [point.raw for point in kept]
            values = run_again(raws, queue, self.place)
            if values is None:
                from experiments.sweep.many_runs import run_sweep  # seconds of imports

                values = run_sweep(raws, queue, place=self.place)
            return [_returned(value) for value in values]
        from experiments.sweep.search_runs import run_search

        numbers = {id(point) for point in kept}
        pairs = [(w, p) for w, p in zip(job_overrides, points, strict=True) if id(p) in numbers]

        def compose(each: Sequence[Sequence[str]]) -> list[Mapping[str, Any]]:
            return [point.raw for point in self._compose(each)]

        search = make_search(self.config.hydra.sweeper, pairs, compose, self.place)
        run_search(search, queue)
        return []

    @cached_property
    def _composer(self) -> "Composer":
        from experiments.config.composition import Composer
        from experiments.sweep.app import FIRST

        late = self.place != FIRST
        return Composer(self.hydra_context.config_loader, self.config, late=late)

    def _compose(self, overrides: Sequence[Sequence[str]]) -> "list[Composed]":
        """Points of these overrides, in their order."""
        from experiments.sweep.counting import counted

        made = dict(counted(self._composer.compose(overrides), len(overrides), "composing"))
        return [made[number] for number in range(len(overrides))]

    def _queue(self) -> "Queue":
        """Raises ValueError for a setting that its queue doesn't have, or not so."""
        from experiments.config.reading import read
        from experiments.sweep.queue import queue_named

        plain = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in self.settings.items()
        }
        return read(queue_named(self.name), plain, "hydra.launcher")
