"""JSON that anybody may have written: bounded before it is parsed, and refused in one line.

Standard library only.
"""

import json
from pathlib import Path
from typing import Any

from experiments.system.regular_files import read_regular

LARGEST = 32 * 2**20  # bytes; the index of a model of 100,000 tensors has 10 MB
_LONGEST = 40  # digits of a whole number
_DEEPEST = 50  # lists and objects in each other; ours have ten


def read_json(path: Path, kind: type = dict) -> Any:
    """Value in a file. Raises ValueError as parse_json, and OSError if it can't be read."""
    return parse_json(read_regular(path, LARGEST), kind)


def parse_json(content: str | bytes, kind: type = dict) -> Any:
    """Value that a text holds.

    Raises ValueError for what is no JSON, is nested too deeply for those who read it, or is of
    another kind.
    """
    try:
        values = json.loads(content, parse_int=_whole)
    except RecursionError:
        raise ValueError(_deep()) from None
    if not isinstance(values, kind):
        raise ValueError(f"it holds a {type(values).__name__}, and not a {kind.__name__}")
    if _openings(content) > _DEEPEST:
        _check_depth([values])
    return values


def _whole(digits: str) -> int:
    """No number of ours is as long, and none as a float can be."""
    if len(digits) > _LONGEST:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


def _openings(content: str | bytes) -> int:
    """No fewer than the levels; counting is a fifth of the time that walking takes."""
    if isinstance(content, str):
        return content.count("{") + content.count("[")
    return content.count(b"{") + content.count(b"[")


def _check_depth(values: Any) -> None:
    level = _inner(values)
    for _ in range(_DEEPEST):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise ValueError(_deep())


def _inner(outer: Any) -> list[Any]:
    within = outer.values() if isinstance(outer, dict) else outer
    return [one for one in within if isinstance(one, (dict, list))]


def _deep() -> str:
    return f"it is nested deeper than {_DEEPEST} levels"
