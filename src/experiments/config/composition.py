"""Many points composed by Hydra. The choices of groups, which they share, are composed once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from experiments.config.composed import Composed
from experiments.config.late import kept, known
from experiments.config.template import Template

_FAMILIES = 64  # choices of groups that are kept: a search composes points of its cells in turn
_WORDS = 4096  # overrides that are kept parsed: points of a grid share them


class Composer:
    """Composes points of one command as loader.load_sweep_config does.

    Hydra lays values over the config that the choices of groups make. Reading and merging a dozen
    yaml files for that takes 0.2 s of CPU, and laying values over it a ten-thousandth of a second
    (template.py). So it is done once for points of the same choices.
    """

    def __init__(self, loader: Any, master: DictConfig, *, late: bool = False) -> None:
        """late: what is known when a run begins keeps its text (late.py)."""
        self._loader, self._master, self._late = loader, master, late
        self._family = lru_cache(_FAMILIES)(self._load_family)

    def compose(self, points: Sequence[Sequence[str]]) -> Iterator[tuple[int, Composed]]:
        """Each point beside its number; those of the same choices come one after another."""
        chosen: dict[str, bool] = {}
        families: dict[tuple[str, ...], list[tuple[int, list[Override]]]] = {}
        for number, words in enumerate(points):
            for word in words:
                if word not in chosen:
                    chosen[word] = is_choice(self._loader, _parsed(word))
            choices = tuple(word for word in words if chosen[word])
            values = [_parsed(word) for word in words if not chosen[word]]
            families.setdefault(choices, []).append((number, values))
        for choices, members in families.items():
            template, made, known = self._family(choices)
            for number, values in members:
                with kept(known) if self._late else nullcontext():
                    filled = template.fill(values)
                yield number, Composed(values=filled, choices=made)

    def _load_family(
        self, choices: tuple[str, ...]
    ) -> tuple[Template, Mapping[str, str], Mapping[str, Any]]:
        config = self._loader.load_sweep_config(self._master, list(choices))
        made = MappingProxyType(dict(config.hydra.runtime.choices))
        values = known(config.hydra)
        del config.__dict__["_content"]["hydra"]  # five sixths of the config
        return Template(config), made, values


@lru_cache(_WORDS)
def _parsed(word: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([word])
    return override


def is_choice(loader: Any, override: Override) -> bool:
    """Hydra's own rule: of a group, and not a dict of values for it."""
    exists: bool = loader.repository.group_exists(override.key_or_group)
    return exists and not isinstance(override.value(), dict)
