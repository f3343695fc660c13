"""A composed config as plain values. Quick to import: Hydra is for those commands that need it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.config.hydra_hints import check_choices
from experiments.config.trust import trust_composed

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True, kw_only=True)
class Composed:
    """Plain values that Hydra has composed, and the choices of groups that made them."""

    values: Mapping[str, Any]
    choices: Mapping[str, str]

    @property
    def raw(self) -> dict[str, Any]:
        """Config of a run: the values, and the name of its model.

        The classes that it names are the user's own choice, and may be imported from now on.
        """
        trust_composed(self.values)
        return {"model_name": self.choices.get("model"), **self.values}


def resolve(composed: "DictConfig") -> dict[str, Any]:
    """Composed.raw of a composed config with its hydra node."""
    from omegaconf import OmegaConf

    plain = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
    values = OmegaConf.to_container(plain, resolve=True)
    assert isinstance(values, dict)
    choices = dict(composed.hydra.runtime.choices)
    return Composed(values={str(k): v for k, v in values.items()}, choices=choices).raw


def composed(overrides: Iterable[str]) -> dict[str, Any]:
    """Config of conf/ with these overrides, as plain values."""
    from hydra import compose

    from experiments.config.hydra_version import composing

    words = list(overrides)
    for word in words:
        check_choices(word)
    with composing():
        return resolve(compose("config", words, return_hydra_config=True))
