"""Every room's how-to has a test that follows it (tests/extending.py), and is in the index."""

import re

from tests.conftest import REPOSITORY
from tests.extending import ROOMS, commands, files, section, sections

TITLES = list(sections())


def test_every_how_to_is_followed_by_a_test():
    texts = [path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")]
    tests = [text for text in texts if "from tests.extending import" in text]
    for title in TITLES:
        if commands(section(title)):
            assert any(f'"{title}"' in text for text in tests), title


def test_the_files_of_a_how_to_are_new():
    for title in TITLES:
        for name in files(section(title)):
            assert not (REPOSITORY / name).exists(), f"{title}: {name}"


def test_the_index_has_each_of_them_and_a_room_five_names():
    index = (REPOSITORY / "docs" / "extending.md").read_text()
    for path in ROOMS:
        text = path.read_text()
        for title in re.findall(r"^## (.*)$", text, re.MULTILINE):
            assert f"| {title[0].lower()}{title[1:]} | " in index, title
        table = text[: text.index("\n## ")]
        assert table.count("\n| ") == 6, path  # with its head
        for name in re.findall(r"\(`([\w./]+)`\) \| ", table):
            assert (path.parent / name).exists(), name
