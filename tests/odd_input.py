"""Tables of odd input, the odd_input.txt of a folder: what somebody types, and a part of the one
line that refuses it. A row is `words => part`, with two spaces between words. [DOOR] begins the
rows of a door, and what follows it stands before the words of each of them.
"""

import re
from pathlib import Path

import pytest


def rows(path: Path) -> list:
    """pytest.param(words, part of the message), by door and number."""
    found, door, before, n = [], "", [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\] *(.*)", line):
            door, before, n = heading[1], heading[2].split(), 0
        elif line and not line.startswith("#"):
            words, part = line.split(" => ")
            n += 1
            found.append(pytest.param([*before, *words.split("  ")], part, id=f"{door}-{n}"))
    return found


def check(message: str, part: str, words: list[str]) -> None:
    """One line, with that part, which names a key or a value that was given."""
    assert part in message
    assert "\n" not in message
    given = [re.sub(r"^[+~]*[\w./]*?(\w+)=", r"\1=", word) for word in words]
    named = {half.strip("'\"[]{}") for word in given for half in word.split("=", 1)}
    named |= {key for word in words for key in re.findall(r"[{,](\w[\w.]*):", word)}  # in a group
    assert any(name and name in message for name in named), message
