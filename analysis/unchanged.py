"""Which files that were made again say what those in their place say.

Another processor rounds last digits otherwise, and another release of matplotlib draws letters
otherwise: neither is a new result. So a report of committed results leaves them as they are.
"""

import base64
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.system.schemas import KEY

_CLOSE = 1e-5  # relative: two processors' optimizers end within it
_NOTHING = 1e-8  # what is left of a gradient at an optimum
_PIXELS = 1e-4  # of a picture that may differ: at edges, where a place is rounded otherwise
_STEP = 0.1  # of a channel of 0 to 1: less is not seen
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DRAWN = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
_FILE = re.compile(r"data:text/csv[\w;=-]*;base64,([A-Za-z0-9+/=]+)")
_STAMP = re.compile(r'<p class="generated">[^<]*</p>')


def unchanged(new: Path, old: Path, files: Iterable[Path]) -> set[Path]:
    """Those of `files` (paths below both folders) that say in `old` what they say in `new`.

    Numbers are compared by value, pictures by what is seen. A picture by another release of
    matplotlib says the same if all numbers beside it do. A page says the same if its text and all
    pictures do.
    """
    there = [path for path in files if (old / path).is_file()]
    same = {path for path in there if (new / path).read_bytes() == (old / path).read_bytes()}
    for suffix, say_the_same in ((".json", _same_json), (".csv", _same_text)):
        found = (path for path in there if path.suffix == suffix and path not in same)
        same |= {path for path in found if say_the_same(_read(new / path), _read(old / path))}
    numbers = {path for path in files if path.suffix in (".json", ".csv")}
    pictures = {path for path in files if path.suffix == ".png"}
    for path in pictures.intersection(there) - same:
        if _looks_the_same(new / path, old / path, numbers <= same):
            same.add(path)
    pages = [path for path in there if path.suffix == ".html" and pictures <= same]
    return same | {
        path
        for path in pages
        if _same_text(*(_page(_read(folder / path)) for folder in (new, old)))
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _page(text: str) -> str:
    """Text of a page: without its date and pictures, and with its tables' files decoded."""
    text = _DRAWN.sub("", _STAMP.sub("", text))
    return _FILE.sub(lambda found: base64.b64decode(found[1]).decode("utf-8", "replace"), text)


def _same_json(new: str, old: str) -> bool:
    try:
        said, before = json.loads(new), json.loads(old)
        if isinstance(said, dict) and isinstance(before, dict) and KEY not in before:
            said.pop(KEY, None)  # files of before there were schemas say the same without
        return _equal(said, before)
    except (ValueError, RecursionError):
        return False


def _equal(new: object, old: object) -> bool:
    if isinstance(new, dict) and isinstance(old, dict):
        return list(new) == list(old) and all(_equal(new[name], old[name]) for name in new)
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(map(_equal, new, old))
    if isinstance(new, float) and isinstance(old, float):
        return math.isclose(new, old, rel_tol=_CLOSE, abs_tol=_NOTHING)
    if isinstance(new, str) and isinstance(old, str):
        return _same_text(new, old)
    return new == old


def _same_text(new: str, old: str) -> bool:
    """Equal but for numbers, which are close, or differ by one in their last place."""
    if _NUMBER.sub("", new) != _NUMBER.sub("", old):
        return False
    pairs = zip(_NUMBER.findall(new), _NUMBER.findall(old), strict=True)
    return all(a == b or _close(a, b) for a, b in pairs)


def _close(new: str, old: str) -> bool:
    if not {".", "e", "E"} & set(new + old):  # a count, unless it is a large number in full
        return abs(int(new) - int(old)) <= _CLOSE * abs(int(old))
    last = 10.0 ** -len(old.lower().partition("e")[0].partition(".")[2])
    scale = 10.0 ** float(old.lower().partition("e")[2] or 0)
    bound = max(_NOTHING, _CLOSE * abs(float(old)), 1.01 * last * scale)
    return abs(float(new) - float(old)) <= bound


def _looks_the_same(new: Path, old: Path, numbers_are: bool) -> bool:
    try:
        with Image.open(new) as first, Image.open(old) as second:
            if first.info.get("Software") != second.info.get("Software"):
                return numbers_are
            one, other = (np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
                          for picture in (first, second))  # fmt: skip
    except OSError:
        return False
    if one.shape != other.shape:
        return False
    return float((np.abs(one - other).max(-1) > _STEP).mean()) <= _PIXELS
