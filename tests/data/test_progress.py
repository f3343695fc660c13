"""Lines about what is made ready, while it takes long."""

import time

from experiments.data import progress
from experiments.data.prepare import prepare_data
from experiments.points.planning import make_point
from tests.conftest import TINY


def test_what_takes_long_is_said_while_it_lasts(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with progress.said("Corpus"):
        time.sleep(0.05)  # nothing is done
        assert capsys.readouterr().out == ""
        with progress.doing("all"), progress.doing("training a vocabulary") as work:
            work.n_bytes = 2_500_000
            while not (said := capsys.readouterr().out):
                time.sleep(0.01)
    assert "preparing Corpus: training a vocabulary, 2.5 MB, 0 s\n" in said
    assert not progress._doing


def test_each_stage_of_preparing_data_says_what_it_is(compose_raw, tmp_path, monkeypatch):
    stages = []

    class Work(progress._Work):
        def __init__(self, what):
            super().__init__(what)
            stages.append(self)

    monkeypatch.setattr(progress, "_Work", Work)
    point = make_point(compose_raw("size=2", "budget=2e9", *TINY, f"paths.cache={tmp_path}"))
    prepare_data(point.config.data, point.cache)
    names = ["training a vocabulary of 270", "tokenizing train", "tokenizing validation"]
    assert [work.what for work in stages] == names
    assert all(work.n_bytes for work in stages)
