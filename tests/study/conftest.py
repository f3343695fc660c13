"""What several documents' tests are measured against."""

import pytest

from tests.study.committed import isoflop


@pytest.fixture(scope="session")
def seeds():
    """The isoFLOP sweep's losses with their seeds."""
    return isoflop()
