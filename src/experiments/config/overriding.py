"""Overrides of values applied to a config, as Hydra's own composition does."""

from collections.abc import Iterable

from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException


def apply(overrides: Iterable[Override], config: DictConfig) -> None:
    """In place, one after the other. Raises ConfigCompositionException with Hydra's words, which
    hydra_hints.py reads.
    """
    for override in overrides:
        if override.package is not None:
            raise ConfigCompositionException(
                f"Override {override.input_line} looks like a config group override, but config "
                f"group '{override.key_or_group}' does not exist."
            )
        try:
            _apply(override, config)
        except (ConfigAttributeError, ConfigKeyError) as error:
            raise ConfigCompositionException(
                f"Could not override '{override.key_or_group}'.\n"
                f"To append to your config use +{override.input_line}"
            ) from error
        except OmegaConfBaseException as error:
            raise ConfigCompositionException(
                f"Error merging override {override.input_line}"
            ) from error


def _apply(override: Override, config: DictConfig) -> None:
    key, value, word = override.key_or_group, override.value(), override.input_line
    there = None
    if override.is_delete() or override.is_add():
        there = OmegaConf.select(config, key, throw_on_missing=False)
    if override.is_delete():
        if there is None:
            raise ConfigCompositionException(
                f"Could not delete from config. '{key}' does not exist."
            )
        if value is not None and value != there:
            raise ConfigCompositionException(
                f"Could not delete from config. The value of '{key}' is {there} and not {value}."
            )
        above, _, last = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, above) if above else config)[last]
        return
    if override.is_add() and there is not None and not isinstance(value, dict | list):
        raise ConfigCompositionException(
            f"Could not append to config. An item is already at '{key}'.\nEither remove + prefix: "
            f"'{(word or '')[1:]}'\nOr add a second + to add or override '{key}': '+{word}'"
        )
    adds = override.is_add() or override.is_force_add()
    OmegaConf.update(config, key, value, merge=True, force_add=adds)
