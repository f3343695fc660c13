"""Runs of a second each, on one text: planned, trained once for all, killed and gone on with."""

import functools
import json
import shutil

import pytest
import torch

from experiments.points.planning import make_point
from experiments.training.execute import execute
from tests.conftest import TINY, Killed, Nursery, kill_at


@pytest.fixture
def eager_backend(monkeypatch):
    """torch.compile with all of its tracing, and without inductor's code and its seconds."""
    whole = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: whole(f, **options | {"backend": "aot_eager"})
    )


@pytest.fixture(scope="session")
def make_in(compose_raw, tmp_path_factory):
    """make_in(folder, "model=peer", ...): a point with its results there, and the text of all."""
    cache = tmp_path_factory.mktemp("cache")

    def point(folder, *overrides):
        has_text = any(word.startswith("data=") for word in overrides)
        tiny = [word for word in TINY if not (has_text and "data.corpus" in word)]
        paths = (f"paths.results={folder}", f"paths.cache={cache}")
        return make_point(compose_raw("size=2", "budget=2e9", *tiny, *paths, *overrides))

    return point


@pytest.fixture
def make(make_in, tmp_path):
    """make("model=peer", ..., folder="a"): such a point, in a folder of this test."""
    return lambda *overrides, folder="results": make_in(tmp_path / folder, *overrides)


@pytest.fixture(scope="session")
def once(make_in, tmp_path_factory):
    """once("model=peer", ...): such a point and its record, trained for all tests that read it."""

    @functools.cache
    def trained(*overrides):
        point = make_in(tmp_path_factory.mktemp("once"), *overrides)
        record = execute(point)
        assert record.status == "done", record.error
        return point, record

    return trained


@pytest.fixture
def resumed(make):
    """resumed("model=peer", ...): the point and record of a run that went on after a kill."""

    def run(*overrides, at=20):
        broken = make(*overrides, "trainer.checkpoint_minutes=0", folder="broken")
        with pytest.raises(Killed):
            execute(broken, kill_at(at))
        assert not (broken.run_dir / "record.json").exists()
        return broken, execute(make(*overrides, folder="broken"))

    return run


@pytest.fixture(scope="session")
def streamed(tmp_path_factory):
    """Overrides of a run that streams eight files of made-up documents, as JSON lines."""
    folder = tmp_path_factory.mktemp("texts")
    for i in range(8):
        lines = [json.dumps({"text": f"{text} {i}"}) for text in Nursery().documents("train", "")]
        (folder / f"{i}.jsonl").write_text("\n".join(lines))
    return (
        "data=local", f"data.path={folder}", "data.corpus.validation_every=20",
        "trainer.n_loader_workers=0", "data.streaming=true", "data.stream_shuffle=12",
    )  # fmt: skip


@pytest.fixture(scope="module")
def killed(request, make_in, tmp_path_factory):
    """Folder of the file's RUN, killed at step 20, with a checkpoint of each step before."""
    each = (*request.module.RUN, "trainer.checkpoint_minutes=0")
    point = make_in(tmp_path_factory.mktemp("killed"), *each)
    with pytest.raises(Killed):
        execute(point, kill_at(20))
    return point.run_dir


@pytest.fixture
def broken(request, make, killed):
    """A copy of it: a point whose folder a test may damage."""
    point = make(*request.module.RUN)
    shutil.copytree(killed, point.run_dir)
    return point
