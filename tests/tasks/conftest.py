"""A trained tiny run, scored by the tests of tasks."""

import shutil

import pytest

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import TINY


@pytest.fixture(scope="session")
def train(tmp_path_factory, compose_raw):
    """train("model=peer", ...): the folder of a finished tiny run."""

    def make(*overrides):
        folder = tmp_path_factory.mktemp("trained")
        paths = (f"paths.results={folder / 'results'}", f"paths.cache={folder / 'cache'}")
        point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *overrides, *paths))
        assert execute(point).status == "done"
        return point.run_dir

    return make


@pytest.fixture(scope="session")
def peer_run(train):
    return train("model=peer")


@pytest.fixture
def run_dir(peer_run, tmp_path):
    """A copy of a PEER's run, to be scored."""
    shutil.copytree(peer_run, tmp_path / "run")
    return tmp_path / "run"


def cache_of(run_dir):
    return f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"
