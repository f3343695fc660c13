"""A benchmark ends with its process, which here goes on with other tests."""

import pytest

from experiments.system.environment import without_denormals


@pytest.fixture(autouse=True)
def denormals_as_before():
    """Benchmarks flush them, and leave it so."""
    with without_denormals():
        yield
