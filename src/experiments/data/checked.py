"""Small JSON files of the cache that carry their own checksum."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.records.files import DamagedError
from experiments.system.disk import write_text

_CHECKSUM = "checksum"  # sha256 over the other keys; files of older versions have none


def write_checked(path: Path, values: Mapping[str, Any]) -> None:
    """One object, with its checksum."""
    text = json.dumps({**values, _CHECKSUM: _checksum(values)}, indent=1)
    write_text(path, text + "\n")


def read_checked(path: Path, types: Mapping[str, type], remedy: str) -> dict[str, Any]:
    """Returns the object. types: of the keys that it must have.

    Raises DamagedError if it can't be read, if its checksum is not its own, or if a key is missing.
    """
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
        checksum = values.pop(_CHECKSUM, None)
        if checksum is not None and checksum != _checksum(values):
            raise ValueError("its checksum is not that of its content")
        for name, wanted in types.items():
            if type(values.get(name)) is not wanted:
                raise ValueError(f"its {name} is no {wanted.__name__}")
    except OSError as error:
        raise DamagedError(path, f"it can't be read: {error.strerror}", remedy) from None
    except (ValueError, RecursionError) as error:
        raise DamagedError(path, str(error), remedy) from None
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
