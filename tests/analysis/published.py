"""Published runs, not in this repository: tests that read them skip where they are absent."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def published() -> Callable[[str], Path]:
    """published("x.csv") is its path: in $PUBLISHED_RUNS, else ../shared/data of the repository."""
    folder = Path(os.environ.get("PUBLISHED_RUNS", REPOSITORY.parent / "shared" / "data"))

    def path(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"{name} is not in {folder}; PUBLISHED_RUNS names another folder")
        return folder / name

    return path
