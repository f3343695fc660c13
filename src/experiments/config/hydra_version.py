"""Hydra 1.3 has to be told which behaviour is meant; 1.4 has that one alone and warns if told."""

from typing import Any

import hydra
from hydra import initialize_config_dir

from experiments.config.paths import conf_dir

_OLD = hydra.__version__.startswith("1.3.")
VERSION_BASE: dict[str, str] = {"version_base": "1.3"} if _OLD else {}
REPLACES: dict[str, Any] = {} if _OLD else {"replace": True}  # of ConfigStore.store, a choice


def composing() -> initialize_config_dir:
    """A context in which hydra.compose reads conf/."""
    return initialize_config_dir(str(conf_dir()), **VERSION_BASE)
