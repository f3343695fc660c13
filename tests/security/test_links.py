"""A link in a stranger's sweep is not written through: it may be to a file of one's own."""

import pytest

from experiments.points.planning import make_point
from experiments.sweep import manifest
from experiments.sweep.workers import redirect_output
from experiments.system.disk import refuse_links
from experiments.training.execute import execute
from tests.conftest import TINY


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine"
    path.write_text("precious")
    return path


@pytest.mark.parametrize("name", ["manifest.jsonl", ".claim"])
def test_of_a_sweep(name, mine, tmp_path):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / name).symlink_to(mine)
    with pytest.raises(RuntimeError, match=rf"{name} is a link.*{mine}; delete it"):
        manifest.submitting(folder).__enter__()
    assert mine.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log.txt", "history.csv", ".claim", "last.partial"])
def test_of_a_run(name, mine, tmp_path, compose_raw):
    paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
    point = make_point(compose_raw("size=1", "budget=2e8", *TINY, *paths))
    point.run_dir.mkdir(parents=True)
    (point.run_dir / name).symlink_to(mine)
    for write in (lambda: execute(point), lambda: redirect_output(point.run_dir / "log.txt")):
        with pytest.raises(RuntimeError, match=rf"{name} is a link.*; delete it"):
            write()
    assert mine.read_text() == "precious"


def test_folders_may_be_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "run").symlink_to(tmp_path / "disk")
    refuse_links(tmp_path / "sweep")
