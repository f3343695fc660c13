"""A trunk as runs wrote it before its parts had a `_target_`: by a key each. Ids stay so."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config.constraints import shown


class _Former(NamedTuple):
    """A part's one class, by the key that had its one setting, if any; default: if not given."""

    part: str
    target: str
    setting: str | None = None
    key: str | None = None
    default: Any = None

    def node(self, value: Any) -> dict[str, Any]:
        """Part as it is written today."""
        return {"_target_": self.target} | ({self.setting: value} if self.setting else {})


_FORMER = (
    _Former("positions", "experiments.models.positions.rope.RoPE", "base", "rope_base", 10_000.0),
    _Former("norm", "experiments.models.norms.rms.RMSNormConfig", "eps", "norm_eps", None),
    _Former(
        "attention", "experiments.models.attention.gqa.GQAConfig", "n_kv_heads", "n_kv_heads", None
    ),
    _Former("residual", "experiments.models.residuals.pre_norm.PreNorm"),
)


def today(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """Node as it is written today. Raises ValueError for a key that has no effect."""
    found = dict(trunk)
    for former in _FORMER:
        part, key = former.part, former.key
        value = found.pop(key, former.default) if key else None
        if part not in found:
            found[part] = former.node(value)
        elif key and key in trunk:
            value = shown(value)
            raise ValueError(f"trunk.{key}={value} is now trunk.{part}.{former.setting}={value}")
    return found


def before(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """Node as ids have it: of these classes the setting, where it is not the default."""
    found = dict(trunk)
    for former in _FORMER:
        part, key = former.part, former.key
        given = found.pop(key, former.default) if key else None
        node = found.pop(part, former.node(given))
        if not isinstance(node, Mapping) or node.get("_target_") != former.target:
            found[part] = node
        elif key and (value := node.get(former.setting, former.default)) != former.default:
            found[key] = value
    return found
