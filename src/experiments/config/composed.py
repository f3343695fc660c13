"""A composed config as plain values. Quick to import: Hydra is for those commands that need it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from experiments.config.hydra_hints import check_choices
from experiments.config.trust import trust_composed

if TYPE_CHECKING:
    from omegaconf import DictConfig


def resolve(composed: "DictConfig") -> dict[str, Any]:
    """A composed config (with its hydra node) as plain values, and the name of its model.

    The classes that it names are the user's own choice, and may be imported from now on.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
    raw = OmegaConf.to_container(plain, resolve=True)
    assert isinstance(raw, dict)
    trust_composed(raw)
    model_name = OmegaConf.select(composed, "hydra.runtime.choices.model")
    return {"model_name": model_name, **{str(k): v for k, v in raw.items()}}


def composed(overrides: Iterable[str]) -> dict[str, Any]:
    """Config of conf/ with these overrides, as plain values."""
    from hydra import compose

    from experiments.config.hydra_version import composing

    words = list(overrides)
    for word in words:
        check_choices(word)
    with composing():
        return resolve(compose("config", words, return_hydra_config=True))
