"""A trained tiny run, scored by the tests of tasks."""

import shutil

import pytest

from tests.conftest import SMALL_PEER


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of a PEER's run, to be scored."""
    return shutil.copytree(trained(*SMALL_PEER), tmp_path / "run")
