"""Follows a how-to of a room's README.md to the letter, in a copy of this checkout.

A section's files are code blocks, each after a line that is the file's path alone, in backticks and
with a colon. Its commands are the blocks that are ```bash. They run in the copy's folder, by its
code and without a cache.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOMS = sorted(
    path
    for folder in ("src/experiments", "analysis")
    for path in (REPOSITORY / folder).rglob("README.md")
)
_COPIED = ("src", "conf", "sbatch", "analysis", "tests")


def sections() -> dict[str, str]:
    """How-tos of all rooms: the text under each heading of the second level."""
    texts = (re.split(r"^## (.*)\n", path.read_text(), flags=re.MULTILINE) for path in ROOMS)
    return {title: text for _, *own in texts for title, text in zip(own[::2], own[1::2])}


def section(title: str) -> str:
    return sections()[title]


def files(text: str) -> dict[str, str]:
    """Content of each file that a section gives, by its path in the checkout."""
    return dict(re.findall(r"^`([^`\n]+)`:\n\n?```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def commands(text: str) -> list[str]:
    """Command blocks of a section."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def follow(title: str, folder: Path) -> str:
    """Writes the files of a section into a copy of the checkout in `folder`, and runs its commands,
    one block after another. Returns what they print, errors too; fails if a command does.
    """
    text = section(title)
    copy_checkout(folder)
    for name, content in files(text).items():
        path = folder / name
        if path.exists():
            pytest.skip(f"{name} is there: this checkout has followed the how-to {title!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert commands(text), f"the section {title!r} has no block of commands"
    return "".join(run_block(block, folder) for block in commands(text))


def copy_checkout(folder: Path) -> None:
    """Code, conf/ and the tests, with what Python has compiled of them: two seconds' work."""
    for name in _COPIED:
        ignored = shutil.ignore_patterns("*.pyc.*")  # one that is being written
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)


def run_block(block: str, folder: Path) -> str:
    """Output of a block of commands, run in a copy by its code; fails if one of them does."""
    python = Path(sys.executable).parent
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("EXPERIMENTS_")},
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}",
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder, env=environment, check=False, timeout=600, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}"
    return done.stdout
