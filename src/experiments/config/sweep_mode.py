"""Experiments that are sweeps: -m, which they need not be typed with."""

import re
from collections.abc import Sequence

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from experiments.config.hydra_version import composing

_EXPERIMENT = re.compile(r"\+?experiment=")
_TYPED = re.compile(r"\+*hydra[./](sweeper|launcher)\b")  # what the experiment says counts
_DECIDED = re.compile(
    r"-m|--multirun|-r|--run|-sc|--shell-completion|--cfg|-c|--info|-i|--help|-h|--hydra-help|hydra\.mode=.*"
)
_FOLDER = re.compile(r"(?:--config-dir|-cd)(?:=(.*))?")


def with_mode(words: Sequence[str]) -> list[str]:
    """Command line of run, with -m first if its experiment sets points of a sweep.

    Hydra 1.3 takes the mode of an experiment, 1.4 of the command line and the primary config alone.
    """
    chosen = any(map(_EXPERIMENT.match, words))
    if not chosen or any(map(_DECIDED.fullmatch, words)) or not _is_sweep(words):
        return list(words)
    return ["-m", *words]


def _is_sweep(words: Sequence[str]) -> bool:
    """Whether the config without what was typed of sweeps is one. False where it can't be composed:
    Hydra says why.
    """
    kept, follows = list[str](), False
    parser = OverridesParser.create()
    try:
        for word in words:
            folder = word if follows else None
            follows = False
            if found := _FOLDER.fullmatch(word):
                folder, follows = found[1], found[1] is None
            if folder is not None:
                kept.append(f"hydra.searchpath=['file://{folder}']")
            elif not (word.startswith("-") or _TYPED.match(word)):
                (override,) = parser.parse_overrides([word])
                kept += [word] * (not override.is_sweep_override())
        with composing():
            hydra = compose("config", kept, return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException):
        return False
    points = any(hydra.sweeper.get(name) for name in ("params", "grids", "search"))
    return points or hydra.mode == RunMode.MULTIRUN
