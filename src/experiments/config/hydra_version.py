"""Hydra 1.3 has to be told which behaviour is meant; 1.4 has that one alone and warns if told."""

import hydra
from hydra import initialize_config_dir

from experiments.config.paths import conf_dir

VERSION_BASE: dict[str, str] = (
    {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
)


def composing() -> initialize_config_dir:
    """A context in which hydra.compose reads conf/."""
    return initialize_config_dir(str(conf_dir()), **VERSION_BASE)
