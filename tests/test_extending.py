"""docs/extending.md: every how-to has a test that follows it (tests/extending.py)."""

import re

from tests.conftest import REPOSITORY
from tests.extending import DOCUMENT, commands, files, section

TITLES = re.findall(r"^## (.*)$", DOCUMENT.read_text(), re.MULTILINE)


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
