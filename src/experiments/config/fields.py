"""How a field of a config is declared that runs recorded earlier did not have, or that can change
a run only beside certain values of others.
"""

import dataclasses
from typing import Any, Final

from experiments.config.effects import USED, VARIES, Condition, Used

ADDED: Final = "added"  # the key of a field's metadata


def added(default: Any, *where: Condition, varies: bool = False) -> Any:
    """Default of a config's field that is younger than runs on disk.

    At its default such a field is no part of a run's identity, so runs from before keep their
    ids, and a config without it reads as the default. So the default must be what the code did
    before. A default that changes later would give old ids to new results: declare another field.

        dropout: float = added(0.0)

    where: as `used` has it, with this default as the idle value, or VARIES.
    """
    idle = VARIES if varies else default
    metadata = {ADDED: True, USED: Used(where=where, idle=idle)}
    return dataclasses.field(default=default, metadata=metadata)


def used(*where: Condition, idle: Any = VARIES, default: Any = dataclasses.MISSING) -> Any:
    """A field that can change a run only where all these conditions hold (effects.py).

    idle: its value where nobody gave one: that of conf/, and of all records. Another value was
    given, and is refused where it has no effect. VARIES: there are several such values, and one
    that was given can't be known from them; then two points that differ in it alone are refused.

        decay: Fraction = used(Is("schedule", "wsd"), Unset("decay_tokens"), idle=0.2)
    """
    return dataclasses.field(default=default, metadata={USED: Used(where=where, idle=idle)})


def is_unchanged(field: "dataclasses.Field[Any]", value: Any) -> bool:
    """Whether the field was declared by `added`, and stands at its default."""
    return ADDED in field.metadata and bool(value == field.default)


def settings(config: Any) -> dict[str, Any]:
    """dataclasses.asdict, without the fields that `added` declares and that are unchanged."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not is_unchanged(field, value):
            values[field.name] = _plain(value)
    return values


def list_columns(layer: Any) -> dict[str, Any]:
    """Columns that tell a layer from others of its kind in tables: `layer.NAME` of a record.

    Its own `columns()`; without one its settings.
    """
    found: dict[str, Any] = layer.columns() if hasattr(layer, "columns") else settings(layer)
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
