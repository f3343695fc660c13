"""Results are written whole or not at all, whatever the disk does."""

import errno
import os
import time
from pathlib import Path

import pytest

from analysis.staging import WriteError, check_folder, committed_otherwise, staged


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def put(folder, texts, error=None):
    """Stages these files, then fails."""
    with staged(folder) as new:
        for name, text in texts.items():
            (new / name).write_text(text)
        if error is not None:
            raise error


def test_committed_results_that_say_something_else_are_named(tmp_path):
    committed = Path(__file__).parents[2] / "results" / "growth" / "study"
    said = (committed / "growth.json").read_text()
    for name, text, found in (
        ("growth.json", said, []),
        ("growth.json", said.replace("1", "2"), ["growth.json"]),
        ("new.json", "{}", []),
    ):
        new = tmp_path / str(len(list(tmp_path.iterdir())))
        new.mkdir()
        (new / name).write_text(text)
        assert committed_otherwise(new, committed) == found
        assert committed_otherwise(new, tmp_path) == []


def test_files_arrive_together_and_replace_what_was_there(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "one").write_text("old")
    with staged(folder) as new:
        (new / "one").write_text("new")
        (new / "figures").mkdir()
        (new / "figures" / "two").write_text("2")
        assert (folder / "one").read_text() == "old"
    assert tree(folder) == ["figures", "figures/two", "one"]
    assert (folder / "one").read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, RuntimeError])
def test_an_error_leaves_neither_files_nor_folders(tmp_path, error):
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "a" / "b", tmp_path / "there"):
        with pytest.raises(error):
            put(folder, {"one": "half"}, error())
    assert tree(tmp_path) == ["there"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    folder = tmp_path / "out"
    message = f"can't write to {folder}: No space left on device; free some space, or name another"
    with pytest.raises(WriteError, match=message):
        put(folder, {"one": "1"}, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert tree(tmp_path) == []


def test_a_folder_in_a_files_place_keeps_all_others_as_they_were(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("old")
    with pytest.raises(WriteError, match="a folder has the name of a file"):
        put(tmp_path, {"a": "new", "b": "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert tree(tmp_path) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file", "a file of that name is there"),
        ("file/x", "a part of its path is a file"),
        ("x" * 300, "File name too long"),
        ("a/" + "x" * 300, "File name too long"),
    ],
)
def test_no_folder_can_be_made_there(tmp_path, name, why):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=f"{why}; make it writable, or name another folder: --out"):
        check_folder(tmp_path / name)
    assert tree(tmp_path) == ["file"]


def test_checking_leaves_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b")
    check_folder(tmp_path)
    assert tree(tmp_path) == []


def test_what_killed_commands_left_is_swept_up_after_a_day(tmp_path):
    for name, age in ((".analysis-old", 90_000), (".analysis-new", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    check_folder(tmp_path)
    assert tree(tmp_path) == [".analysis-new", ".analysis-new/half"]
