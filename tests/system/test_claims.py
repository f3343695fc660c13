"""One process has a run, its journal says what became of it, and a folder that is lost ends it."""

import os

import pytest

from experiments.points.planning import make_point
from experiments.system.claims import (
    RunLostError,
    RunningElsewhereError,
    claimed,
    is_claimed,
    log_event,
    read_events,
)
from experiments.training.execute import execute
from tests.conftest import TINY


@pytest.fixture
def point(compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
    return make_point(compose_raw("size=1", "budget=1e9", *TINY, *paths))


@pytest.mark.parametrize("change", ["moved", "deleted"])
def test_a_run_that_lost_its_folder_ends_and_writes_nothing_there(point, tmp_path, change):
    seen = []

    def lose(row):
        seen.append(row["step"])
        if row["step"] == 20:
            if change == "moved":
                point.run_dir.rename(tmp_path / "elsewhere")
            else:
                (point.run_dir / ".claim").unlink()

    with pytest.raises(RunLostError):
        execute(point, lose)
    assert seen == [10, 20]
    assert point.run_dir.exists() == (change == "deleted")
    assert not (point.run_dir / "record.json").exists()


def test_a_run_belongs_to_one_process(point):
    with claimed(point.run_dir):
        assert is_claimed(point.run_dir)
        with pytest.raises(RunningElsewhereError, match=rf"is being run by .* pid {os.getpid()}"):
            execute(point)
    assert not is_claimed(point.run_dir)
    assert execute(point).status == "done"


def test_a_journal_survives_a_line_cut_short(tmp_path):
    log_event(tmp_path, "started", step=3)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "int')
    (event,) = read_events(tmp_path)
    assert (event["event"], event["step"]) == ("started", 3)
    log_event(tmp_path, "done")
    assert [e["event"] for e in read_events(tmp_path)] == ["started", "done"]


def test_a_journal_passes_over_what_is_no_event(tmp_path):
    log_event(tmp_path, "started")
    for line in (b"null", b"[1]", b"{}", b'{"event": 3}', b"\xff\xfe", b"[" * 100_000, b""):
        with (tmp_path / "events.jsonl").open("ab") as file:
            file.write(line + b"\n")
    log_event(tmp_path, "done")
    assert [e["event"] for e in read_events(tmp_path)] == ["started", "done"]
