"""Schema, first in the JSON of a command: "NAME/VERSION". docs/json.md has the keys of
each. Standard library only.
"""

from collections.abc import Mapping
from typing import Any

KEY = "schema"


def with_schema(name: str, values: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    """Values, with the schema before them. version: one more at each change of its keys,
    new ones too, or of what they mean.
    """
    return {KEY: f"{name}/{version}", **values}
