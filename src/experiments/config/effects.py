"""Which settings of a run can change it. Each field says where it can (fields.used), by conditions
on others; so a new field brings its own.

A setting without effect that somebody gave is refused by its name, for it would be another run id
of the same run. Standard library only.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from experiments.config.constraints import shown
from experiments.config.schedules import TRUNK

USED: Final = "used"  # the key of a field's metadata
VARIES: Final = object()
_SINGLE = (type(None), bool, int, float, str, tuple)  # most fields: no groups of fields


@dataclass(frozen=True, kw_only=True)
class Run:
    """Facts that conditions look at: the typed config, and the kinds of parameters that are
    trained (run_plan.trained_kinds), which take longer to find.
    """

    config: Any
    trained: Callable[[], Collection[str]]


class Condition(Protocol):
    """Where a field has an effect."""

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        """Why it has none, and the remedy, in words; None if it has. own: the field's dataclass,
        and prefix is its path in the config ("optim.").
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Used:
    """Where a field is used, and its value where nobody gave one."""

    where: tuple[Condition, ...]
    idle: Any


@dataclass(frozen=True)
class Is:
    """Another field of the same group has one of these values."""

    name: str
    values: tuple[Any, ...]

    def __init__(self, name: str, *values: Any) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "values", values)

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        value = getattr(own, self.name)
        if value in self.values:
            return None
        remedy = " or ".join(map(_typed, self.values))
        return f"with {prefix}{self.name}={_typed(value)}; set {prefix}{self.name}={remedy}"


@dataclass(frozen=True)
class Above:
    """Another field of the same group is a number above this one."""

    name: str
    low: float = 0

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        value = getattr(own, self.name)
        if value is not None and value > self.low:
            return None
        return f"with {prefix}{self.name}={shown(value)}; raise {prefix}{self.name}"


@dataclass(frozen=True)
class Unset:
    """Another field of the same group is null, in whose place this one is."""

    name: str

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        value = getattr(own, self.name)
        if value is None:
            return None
        return (
            f"with {prefix}{self.name}={_typed(value)}, which counts; set {prefix}{self.name}=null"
        )


@dataclass(frozen=True)
class Trains:
    """Whether the run trains parameters of a kind."""

    kind: str
    words: str

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        if self.kind in run.trained():
            return None
        init = run.config.init
        by = "" if init is None else f" and init.train={init.train}"
        return (
            f"on model={run.config.model_name}{by}, where no parameter that is trained is "
            f"{self.words}; give it to models that have one"
        )


@dataclass(frozen=True)
class If:
    """A test of the field's group, in the words of the line: "with x=y; set x=z"."""

    holds: Callable[[Any], bool]
    words: str

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        return None if self.holds(own) else self.words


@dataclass(frozen=True)
class Drawn:
    """Whether the run's first weights are drawn at random, and not read."""

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        if run.config.init is None:
            return None
        return "with weights to start from; set init=none"


@dataclass(frozen=True)
class OfResult:
    """Whether a run's end is a result; a trunk's is none. words: what a trunk does instead."""

    words: str

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        if run.config.optim.schedule != TRUNK:
            return None
        return f"with optim.schedule=trunk, {self.words}; set it where branches are trained"


@dataclass(frozen=True)
class InSeveralBlocks:
    """Several blocks hold the layer under study."""

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        blocks, size = run.config.trunk.ffn_blocks, run.config.size
        n = size if blocks == "all" else 1 if blocks == "middle" else len(blocks)
        return None if n > 1 else "with one block of it; name several by trunk.ffn_blocks"


@dataclass(frozen=True)
class Through:
    """Another key takes its value from this one by default, and that one is used."""

    name: str

    def unmet(self, own: Any, prefix: str, run: Run) -> str | None:
        return f"but through {self.name}; give that"


@dataclass(frozen=True, kw_only=True)
class Ineffective:
    """A setting that can't change its run. given: somebody gave it; False: that can't be told, or
    it is what it is by default.
    """

    name: str
    value: Any
    why: str
    given: bool

    def describe(self) -> str:
        """A refusal's line."""
        return f"{self.name}={_typed(self.value)} has no effect {self.why}, or leave it out"


def ineffective(run: Run, *, given_alone: bool = False) -> Iterator[Ineffective]:
    """Settings of a run that can't change it, in the order of their declaration.

    given_alone: those that somebody gave; of no others are conditions looked at, which takes time.
    """
    return _of_group(run.config, "", run, given_alone)


def _of_group(own: Any, prefix: str, run: Run, given_alone: bool) -> Iterator[Ineffective]:
    values, kind = vars(own), own.__class__
    for key, declared in _declared(kind):
        value = values[key]
        if declared is not None:
            given = declared.idle is not VARIES and bool(value != declared.idle)
            asked = declared.where if given or not given_alone else ()
            unmet = (condition.unmet(own, prefix, run) for condition in asked)
            why = next((words for words in unmet if words is not None), None)
            if why is not None:
                yield Ineffective(name=f"{prefix}{key}", value=value, why=why, given=given)
        if type(value) in _SINGLE:
            continue
        if isinstance(value, Mapping):
            for name, one in value.items():
                if dataclasses.is_dataclass(one):
                    yield from _of_group(one, f"{prefix}{key}.{name}.", run, given_alone)
        elif dataclasses.is_dataclass(value):
            yield from _of_group(value, f"{prefix}{key}.", run, given_alone)


@functools.cache
def _declared(cls: type) -> tuple[tuple[str, Used | None], ...]:
    """Fields of a dataclass, each with what `used` says of it."""
    return tuple((field.name, field.metadata.get(USED)) for field in dataclasses.fields(cls))


def _typed(value: Any) -> str:
    """As a user types it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_typed, value))}]"
    return value if isinstance(value, str) else shown(value)
