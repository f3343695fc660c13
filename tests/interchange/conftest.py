"""Vocabulary of all exports."""

import pytest

from tests.interchange.models import vocabulary_in


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory):
    return vocabulary_in(tmp_path_factory.mktemp("cache"))
