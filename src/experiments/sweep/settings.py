"""Settings that distinguish points of a sweep that have the same name."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from experiments.sweep.point import Point

P = TypeVar("P", bound=Point)
# what follows from init.path, and would only make a line longer
_OF_WEIGHTS = (
    "init.sha256", "init.weights", "trunk.base_ffn", "model.n_first_keys", "data.tokenizer",
    "data.corpus.base",
)  # fmt: skip


def with_settings(points: Sequence[P]) -> list[P]:
    """Returns points. Those of equal names get the settings in which they differ, and those that
    differ from them by the seed alone get the same settings.
    """
    alike: dict[str, list[P]] = {}
    for point in points:
        alike.setdefault(point.name.removesuffix(f" seed={point.seed}"), []).append(point)
    settings = {}
    for group in alike.values():
        leaves = _own_leaves([point.raw for point in group])
        names = sorted({name for seed in _by_seed(leaves) for name in _varied(seed)})
        for point, own in zip(group, leaves, strict=True):
            # by its last name, once: ladder.lr is optim.lr
            shown = dict(_shown(name, own[name]) for name in names if name in own)
            settings[point.run_id] = "".join(f" {name}={value}" for name, value in shown.items())
    return [replace(point, setting=settings[point.run_id]) for point in points]


def _own_leaves(raws: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Leaves of each config, without those of groups that are the same in all; the seed in any
    case.
    """
    differ = {"seed"}
    for key in {key for raw in raws for key in raw}:
        texts = {json.dumps(raw[key]) if key in raw else "" for raw in raws}
        differ |= {key} if len(texts) > 1 else set()
    return [dict(_leaves({k: v for k, v in raw.items() if k in differ})) for raw in raws]


def _by_seed(leaves: Sequence[Mapping[str, str]]) -> Iterable[list[Mapping[str, str]]]:
    groups: dict[str, list[Mapping[str, str]]] = {}
    for own in leaves:
        groups.setdefault(own.get("seed", ""), []).append(own)
    return groups.values()


def _varied(leaves: Sequence[Mapping[str, str]]) -> set[str]:
    """Names whose values differ. The budget is in a point's name, and of a trunk no setting.
    Settings that a class alone has are not named where the class is.
    """
    names = {n for own in leaves for n in own if not n.startswith(_OF_WEIGHTS)} - {"budget"}
    varied = {name for name in names if len({own.get(name) for own in leaves}) > 1}
    classes = tuple(n.removesuffix("_target_") for n in varied if n.endswith("._target_"))
    shared = set(leaves[0]).intersection(*leaves)
    return {name for name in varied if name in shared or not name.startswith(classes)}


def _shown(name: str, value: str) -> tuple[str, str]:
    """A setting's last name and value; of a class the group and the class's file: optim=muon."""
    before, _, last = name.rpartition(".")
    if last != "_target_":
        return last, value
    return before.rpartition(".")[2], value.rpartition(".")[0].rpartition(".")[2]


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a config with its dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(node)
