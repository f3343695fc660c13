"""Why a sweep is refused, in one line: the points and the fault."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.records.files import RECORD_NAME
from experiments.sweep.manifest import MANIFEST_NAME

Raw = Mapping[str, Any]
_NUMBER = re.compile(r"\b[0-9a-f]{12}\b|[-+]?\d[\d.e+-]*")  # a run id, too


def of_points(
    bad: Sequence[tuple[Raw, ValueError]], total: int, named: Callable[[Raw], str]
) -> str:
    """First error, its point as `named` has it, and how many have the same one, or another."""
    raw, first = bad[0]
    if total == 1:
        return str(first)
    kinds = Counter(_NUMBER.sub("#", str(error)) for _, error in bad)
    same = kinds[_NUMBER.sub("#", str(first))] - 1
    parts = [named(raw)]
    if same:
        parts.append(f"{same} other point{'s have' if same > 1 else ' has'} the same error")
    if other := len(bad) - same - 1:
        parts.append(f"{other} of the {total} points {'have' if other > 1 else 'has'} other errors")
    return f"{first} ({'; '.join(parts)})"


def check_folder(folder: Path, name: str) -> None:
    """Raises ValueError if a new sweep's folder would be inside another sweep, or hold others."""
    if (folder / MANIFEST_NAME).exists():
        return
    inside = folder.parent if "/" in name else folder
    for place in dict.fromkeys((folder, inside)):
        if (place / RECORD_NAME).exists():
            raise ValueError(f"sweep={name}: {place} is a run's folder; choose another name")
    if "/" in name and ((inside / MANIFEST_NAME).exists() or _holds(inside, RECORD_NAME)):
        raise ValueError(f"sweep={name}: {inside} is a sweep itself, not a group; choose another")
    if held := _holds(folder, MANIFEST_NAME):
        raise ValueError(
            f"sweep={name}: {folder} is a group of sweeps ({held} is one); name one in it, as "
            f"{name.partition('/')[0]}/NAME"
        )


def _holds(folder: Path, name: str) -> str | None:
    """A folder in this one that has a file of that name."""
    return next((path.parent.name for path in folder.glob(f"*/{name}")), None)
