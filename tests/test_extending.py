"""docs/extending.md: every how-to has a test that follows it (tests/extending.py)."""

import re

from tests.conftest import REPOSITORY
from tests.extending import DOCUMENT, commands, files, section

TITLES = re.findall(r"^## (.*)$", DOCUMENT.read_text(), re.MULTILINE)


def test_every_how_to_is_followed_by_a_test():
    tests = (path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    followed = set(re.findall(r"\bfollow\(\s*\"([^\"]+)\"", "\n".join(tests)))
    assert followed == {title for title in TITLES if commands(section(title))}


def test_the_files_of_a_how_to_are_new():
    for title in TITLES:
        for name in files(section(title)):
            assert not (REPOSITORY / name).exists(), f"{title}: {name}"
