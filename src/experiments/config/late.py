"""Values that are known when a run begins: `${now:...}`, and its folder as Hydra names it.

A config of an own app has their text, so that a run is the same one at each command. Quick to
import: Hydra is for those that compose.
"""

import functools
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

_LATE = re.compile(r"\$\{(now|hydra):([^${}]*)\}")
_PLACES = ("runtime.output_dir", "runtime.cwd")
_CHOICE = "runtime.choices."


def known(hydra: Any) -> dict[str, Any]:
    """What of Hydra's node is the same at each command, by path: its choices, the app's name."""
    choices = {_CHOICE + str(name): chosen for name, chosen in hydra.runtime.choices.items()}
    return {"job.name": hydra.job.name, "job.config_name": hydra.job.config_name, **choices}


@contextmanager
def kept(values: Mapping[str, Any]) -> Iterator[None]:
    """Within, what is known later resolves to its own text, and others of Hydra's to these values.
    Raises ValueError for a value that no point has.
    """
    from hydra.core.utils import setup_globals
    from omegaconf.errors import InterpolationResolutionError

    from experiments.config.hydra_version import register_resolver

    def of_hydra(path: str) -> Any:
        if path in _PLACES:
            return f"${{hydra:{path}}}"
        if path not in values:
            unknown.append(path)
        return values[path]

    unknown: list[str] = []
    register_resolver("now", lambda pattern: f"${{now:{pattern}}}")
    register_resolver("hydra", of_hydra)
    try:
        yield
    except InterpolationResolutionError as error:
        if not unknown:
            raise
        raise ValueError(
            f"{error.full_key}=${{hydra:{unknown[0]}}} is nothing that a point of a sweep has; use "
            f"{', '.join((*_PLACES, f'{_CHOICE}GROUP'))} or job.name, or leave it out"
        ) from None
    finally:
        setup_globals()


def begun(config: Any, folder: Path | None = None) -> Any:
    """A config's values, now. folder: the run's; None: before it has one, and now is the same for
    all of a command.
    """
    moment = _moment() if folder is None else _now()

    def text_of(found: re.Match[str]) -> str:
        if found[1] == "now":
            return moment.strftime(found[2])
        if folder is None or found[2] not in _PLACES:
            return found[0]
        return str(Path.cwd() / folder if found[2] == _PLACES[0] else Path.cwd())

    def filled(node: Any) -> Any:
        if isinstance(node, str):
            return _LATE.sub(text_of, node)
        if isinstance(node, Mapping):
            return {key: filled(value) for key, value in node.items()}
        return [filled(value) for value in node] if isinstance(node, list) else node

    return filled(config)


def _now() -> datetime:
    return datetime.now()


_moment = functools.cache(_now)


@contextmanager
def job_of_hydra(name: str, folder: Path) -> Iterator[None]:
    """Within, HydraConfig.get() has the run's folder and name, if the app has imported Hydra."""
    if "hydra.core.hydra_config" not in sys.modules:
        yield
        return
    from hydra.conf import HydraConf
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    config.hydra.job.name = name
    here = Path.cwd()
    config.hydra.runtime.output_dir, config.hydra.runtime.cwd = str(here / folder), str(here)
    config.hydra.runtime.choices = "???"  # and not none
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    try:
        yield
    finally:
        instance.cfg = before
