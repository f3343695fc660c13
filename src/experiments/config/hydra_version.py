"""Hydra 1.3 has to be told which behaviour is meant; 1.4 has that one alone and warns if told."""

from collections.abc import Callable
from typing import Any

import hydra
import omegaconf
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir

_OLD = hydra.__version__.startswith("1.3.")
VERSION_BASE: dict[str, str] = {"version_base": "1.3"} if _OLD else {}
REPLACES: dict[str, Any] = {} if _OLD else {"replace": True}  # of ConfigStore.store, a choice


def register_resolver(name: str, resolve: Callable[..., Any]) -> None:
    """In place of one of that name. OmegaConf 2.4 has another name for it, which in 2.3 is of
    something older.
    """
    is_old = omegaconf.__version__.startswith("2.3.")
    register = getattr(OmegaConf, "register_new_resolver" if is_old else "register_resolver")
    register(name, resolve, replace=True)


def composing() -> initialize_config_dir:
    """A context in which hydra.compose reads conf/."""
    return initialize_config_dir(str(conf_dir()), **VERSION_BASE)
