"""A trunk as runs wrote it before its parts had a `_target_`: by a key each. Ids stay so."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config.constraints import shown


class _Former(NamedTuple):
    """A part's one class, by the key that had its one setting. default: where none is given."""

    part: str
    target: str
    setting: str
    key: str
    default: Any


_FORMER = (
    _Former("positions", "experiments.models.positions.rope.RoPE", "base", "rope_base", 10_000.0),
    _Former("norm", "experiments.models.norms.rms.RMSNormConfig", "eps", "norm_eps", None),
    _Former(
        "attention", "experiments.models.attention.gqa.GQAConfig", "n_kv_heads", "n_kv_heads", None
    ),
)


def today(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """Node as it is written today. Raises ValueError for a key that has no effect."""
    found = dict(trunk)
    for part, target, setting, key, default in _FORMER:
        value = found.pop(key, default)
        if part not in found:
            found[part] = {"_target_": target, setting: value}
        elif key in trunk:
            value = shown(value)
            raise ValueError(f"trunk.{key}={value} is now trunk.{part}.{setting}={value}")
    return found


def before(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """Node as ids have it: of these classes the setting, where it is not the default."""
    found = dict(trunk)
    for part, target, setting, key, default in _FORMER:
        given = found.pop(key, default)
        node = found.pop(part, {"_target_": target, setting: given})
        if not isinstance(node, Mapping) or node.get("_target_") != target:
            found[part] = node
        elif (value := node.get(setting, default)) != default:
            found[key] = value
    return found
