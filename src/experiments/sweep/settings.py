"""The settings that distinguish points of a sweep that have the same name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.points.point import Point

# what follows from init.path, and would only make a line longer
_OF_WEIGHTS = (
    "init.sha256", "init.weights", "trunk.base_ffn", "model.n_first_keys", "data.tokenizer",
    "data.corpus.base",
)  # fmt: skip


def with_settings(points: Sequence[Point]) -> list[Point]:
    """The points. Those of equal names get the settings in which they differ."""
    alike: dict[str, list[Point]] = {}
    for point in points:
        alike.setdefault(point.name, []).append(point)
    settings = {}
    for group in alike.values():
        if len(group) == 1:
            settings[group[0].run_id] = ""
            continue
        values = [dict(_leaves(point.raw)) for point in group]
        names = {n for leaves in values for n in leaves if not n.startswith(_OF_WEIGHTS)}
        names -= {"budget"}  # in the name, and of a trunk no setting
        varied = sorted(n for n in names if len({leaves.get(n) for leaves in values}) > 1)
        for point, leaves in zip(group, values, strict=True):
            # by its last name, once: ladder.lr is optim.lr
            shown = {name.rpartition(".")[2]: leaves[name] for name in varied if name in leaves}
            settings[point.run_id] = "".join(f" {name}={value}" for name, value in shown.items())
    return [replace(point, setting=settings[point.run_id]) for point in points]


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a config with its dotted name."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(node)
