"""A search's cells from the points that Hydra composes, and its rules from hydra.sweeper."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.config.constraints import shown
from experiments.config.words import split_key

if TYPE_CHECKING:  # Hydra imports its plugins at every start
    from experiments.config.composed import Composed
    from experiments.sweep.search import Cell, Search
    from experiments.sweep.study import Rules

Overrides = Sequence[str]
Compose = Callable[[Sequence[Overrides]], Sequence[Mapping[str, Any]]]
RULES = ("objective", "direction", "per", "sampler", "seed")  # keys of hydra.sweeper for a search
_MISSING = object()


def find_value(point: "Composed", name: str, where: str) -> Any:
    """A point's value of a name; of a group the choice. Raises ValueError for an unknown name."""
    if name in point.choices:
        return point.choices[name]
    value: Any = point.values
    for key in name.split("."):
        value = value.get(key, _MISSING) if isinstance(value, Mapping) else _MISSING
    if value is _MISSING or value == "???":
        raise ValueError(f"{where}: {name} is not a key of the config")
    return value


def make_search(
    sweeper: DictConfig,
    points: "Sequence[tuple[Overrides, Composed]]",
    compose: Compose,
    place: str,
) -> "Search":
    """Search that hydra.sweeper asks for, over these points and their overrides, of the app of that
    place.

    Raises ValueError for settings that are none, and for cells that are not there.
    """
    from experiments.sweep.search import Search
    from experiments.sweep.study import check_installed

    rules = _rules(sweeper, place)
    check_installed()
    return Search(_cells(sweeper.per, rules, points, compose), rules, place)


def _rules(sweeper: DictConfig, place: str) -> "Rules":
    from experiments.config.constraints import AtLeast1, Seed, checked
    from experiments.sweep.app import find_app
    from experiments.sweep.objective import DIRECTIONS, Objective
    from experiments.sweep.space import read_spaces
    from experiments.sweep.study import SAMPLERS, Rules

    plain = OmegaConf.to_container(sweeper, resolve=True)
    assert isinstance(plain, dict)
    if plain["n_trials"] is None:
        raise ValueError("hydra.sweeper.n_trials is not set; a search needs it: trials of a cell")
    for name, known in (("sampler", SAMPLERS), ("direction", DIRECTIONS)):
        if plain[name] not in known:
            given = f"hydra.sweeper.{name}={plain[name]}"
            raise ValueError(f"{given} is not one of {', '.join(known)}")
    app = find_app(place)
    app.check_search((), plain["objective"])
    spaces = read_spaces(plain["search"])
    app.check_search(spaces, plain["objective"])
    return Rules(
        spaces=spaces,
        n_trials=checked(plain["n_trials"], AtLeast1, "hydra.sweeper.n_trials"),
        objective=Objective(name=plain["objective"], direction=plain["direction"]),
        sampler=plain["sampler"],
        seed=checked(plain["seed"], Seed, "hydra.sweeper.seed"),
    )


def _cells(
    per: Any,
    rules: "Rules",
    points: "Sequence[tuple[Overrides, Composed]]",
    compose: Compose,
) -> "list[Cell]":
    """Points by their values of `per`: those of one cell differ in their seeds, and in the
    values of the searched keys that are tried first.
    """
    from experiments.sweep.search import Cell

    listed = isinstance(per, ListConfig) and bool(per)
    if not listed or not all(isinstance(name, str) for name in per) or len({*per}) < len(per):
        raise ValueError(
            f"hydra.sweeper.per={shown(per) if per is None else per} must be a list of keys, as "
            "[model, budget, size], each one once"
        )
    for name in set(per) & set(rules.spaces):
        raise ValueError(
            f"hydra.sweeper.search: {name} is in hydra.sweeper.per too, where each of its values "
            "is a cell; drop one"
        )
    members: dict[str, list[Overrides]] = {}
    firsts: dict[str, list[dict[str, Any]]] = {}
    for overrides, point in points:
        values = {name: find_value(point, name, "hydra.sweeper.per") for name in per}
        cell = " ".join(f"{name}={_short(value)}" for name, value in values.items())
        for space in rules.spaces:
            _check_key(space, rules.spaces[space].kind, cell, point)
        others = [word for word in overrides if split_key(word) not in rules.spaces]
        given = sorted({split_key(word) for word in overrides} & set(rules.spaces))
        first = {name: rules.spaces[name].checked(find_value(point, name, "")) for name in given}
        if others not in members.setdefault(cell, []):
            members[cell].append(others)
        if first and first not in firsts.setdefault(cell, []):
            firsts[cell].append(first)
    for cell, found in members.items():
        _check_alike(cell, found)
        n_first = len(firsts.get(cell, ()))
        if n_first > rules.n_trials:
            raise ValueError(
                f"hydra.sweeper.n_trials={rules.n_trials}, and the grid has {n_first} values for "
                f"{cell} to try first; raise n_trials"
            )
    return [
        Cell(
            name=cell,
            compose=lambda words, found=found: compose([[*o, *words] for o in found]),
            first=firsts.get(cell, ()),
        )
        for cell, found in members.items()
    ]


def _check_key(name: str, kind: str, cell: str, point: "Composed") -> None:
    """Raises ValueError for a key that the cell doesn't have, or that has no numbers."""
    where = f"hydra.sweeper.search: {name}"
    try:
        value = find_value(point, name, "")
    except ValueError:
        raise ValueError(f"{where} is not a key of {cell}; search each model's own keys") from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind != "choice" and value is not None and not number:
        raise ValueError(
            f"{where}={value} of {cell} is not a number; give a list of values, as [a, b]"
        )


def _check_alike(cell: str, members: Sequence[Overrides]) -> None:
    """Raises ValueError if points of a cell differ in more than their seeds."""
    values = [{split_key(word): word for word in overrides} for overrides in members]
    names = {name for each in values for name in each if name != "seed"}
    differ = sorted(n for n in names if len({each.get(n) for each in values}) > 1)
    if differ:
        raise ValueError(
            f"{len(members)} points of the grid are one cell, {cell}, and differ in "
            f"{', '.join(differ)}; name that in hydra.sweeper.per too (seeds alone are averaged)"
        )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
