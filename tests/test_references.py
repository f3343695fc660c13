"""What is named is there: files in comments and docstrings, and pictures that no document shows."""

import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

_OTHERS = {"NAME.py", "engram_demo_v1.py", "layers_experts.py"}  # a place holder, and theirs
_THEIRS = ("lingua/", "olmo/", "omni_moe/", "lm_eval/")  # repositories, and a package


def committed() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("no git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def words(path: Path) -> str:
    """Comments and docstrings of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return "\n".join(
        token.string
        for token in tokens
        if token.type == tokenize.COMMENT or token.string.startswith(('"""', 'r"""'))
    )


def test_every_file_that_the_code_names_is_there():
    files = committed()
    ours = [path for path in files if path.suffix == ".py" and path.parts[0] != "results"]
    absent = [
        f"{path}: {name}"
        for path in ours
        for name in re.findall(r"[\w/]*\w\.py\b", words(REPOSITORY / path))
        if name not in _OTHERS
        and not name.startswith(_THEIRS)
        and not any(f"/{file}".endswith(f"/{name.lstrip('/')}") for file in files)
    ]
    assert absent == []


def test_every_picture_stands_in_a_document():
    files = committed()
    shown = {
        (REPOSITORY / path.parent / link).resolve()
        for path in files
        if path.suffix in (".md", ".ipynb")
        for link in re.findall(r"[\w./-]+\.png", (REPOSITORY / path).read_text())
    }
    pictures = {REPOSITORY / path for path in files if path.suffix == ".png"}
    assert {path for path in pictures if path.exists()} <= shown
