"""Points of one small sweep, and its folder."""

import pytest

from experiments.point import make_point
from tests.conftest import TINY


@pytest.fixture
def make(compose_raw, tmp_path):
    """make("seed=1", ...): the point with these overrides."""

    def point(*overrides):
        paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
        fixed = ("size=1", "budget=1e9", "sweep=s")
        return make_point(compose_raw(*fixed, *TINY, *paths, *overrides))

    return point


@pytest.fixture
def sweep(tmp_path):
    """The folder of its points."""
    return tmp_path / "results" / "s"
