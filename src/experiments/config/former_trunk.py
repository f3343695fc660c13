"""A trunk as runs wrote it before its positions had a `_target_`: by `rope_base`. Ids stay so."""

from collections.abc import Mapping
from typing import Any

from experiments.config.constraints import shown

_ROPE, _BASE = "experiments.models.positions.rope.RoPE", 10_000.0


def today(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """The node as it is written today. Raises ValueError for a key that has no effect."""
    rest = {key: value for key, value in trunk.items() if key != "rope_base"}
    if "positions" not in trunk:
        return {**rest, "positions": {"_target_": _ROPE, "base": trunk.get("rope_base", _BASE)}}
    if "rope_base" in trunk:
        base = shown(trunk["rope_base"])
        raise ValueError(f"trunk.rope_base={base} is now trunk.positions.base={base}")
    return rest


def before(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """The node as ids have it: of rotary positions their base, where it is not the usual one."""
    rest = {key: value for key, value in trunk.items() if key not in ("positions", "rope_base")}
    node = trunk.get("positions", {"_target_": _ROPE, "base": trunk.get("rope_base", _BASE)})
    if not isinstance(node, Mapping) or node.get("_target_") != _ROPE:
        return {**rest, "positions": node}
    base = node.get("base", _BASE)
    return rest if base == _BASE else {**rest, "rope_base": base}
