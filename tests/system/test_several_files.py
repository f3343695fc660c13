"""Results of several files: whole, or those of before, wherever a write was cut short."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.system import disk, several_files
from experiments.system.several_files import read_list, settle, write_together

BEFORE = {"a.csv": "1\n", "b.csv": "same\n", "c.html": "<p>1"}
AFTER = {"a.csv": "2\n", "b.csv": "same\n", "c.html": "<p>2", "d.csv": "new\n"}


class Cut(BaseException):
    """As a kill."""


def whole(folder):
    """What a folder holds, which must be all that its list says; no other file is in it."""
    found = read_list(folder / "list.json")
    assert found.wrong() == {}
    assert {path.name for path in folder.iterdir()} == {*found.files, "list.json"}
    return found.values["n"], {name: (folder / name).read_text() for name in found.files}


def changes(monkeypatch, fail):
    """Counts what changes the disk from here on, and lets fail(n) raise before the n-th."""
    count = [0]

    def counted(own, is_change=lambda *given: True):
        def call(*given, **more):
            if is_change(*given):
                count[0] += 1
                fail(count[0])
            return own(*given, **more)

        return call

    def is_to_write(path, flags, *given):
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    for name in ("replace", "mkdir", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(os, "open", counted(os.open, is_to_write))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return count


@pytest.fixture
def folder(tmp_path):
    write_together(tmp_path / "list.json", {"n": 1}, BEFORE)
    assert whole(tmp_path) == (1, BEFORE)
    return tmp_path


def n_steps(folder):
    """How many changes a write makes."""
    with pytest.MonkeyPatch.context() as patch:
        count = changes(patch, lambda n: None)
        write_together(folder / "list.json", {"n": 2}, AFTER)
    return count[0]


def test_a_write_that_is_cut_anywhere_leaves_the_results_of_before_or_the_new_ones(folder):
    seen = set()
    for last in range(1, 1000):
        shutil.rmtree(folder)
        write_together(folder / "list.json", {"n": 1}, BEFORE)

        def cut(n, last=last):
            if n >= last:  # a killed process does nothing more
                raise Cut

        with pytest.MonkeyPatch.context() as patch:
            count = changes(patch, cut)
            try:
                write_together(folder / "list.json", {"n": 2}, AFTER)
            except Cut:
                pass
            else:
                break
        assert count[0] >= last
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "has_ended", lambda mark: True)
            settle(folder / "list.json")
        for leftover in folder.glob(".list.json.new-*"):
            leftover.unlink()  # the next write of it does
        assert whole(folder) in ((1, BEFORE), (2, AFTER)), last
        seen.add(whole(folder)[0])
        write_together(folder / "list.json", {"n": 2}, AFTER)
        assert whole(folder) == (2, AFTER)
    assert last > 10
    assert seen == {1, 2}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_leaves_the_results_of_before_or_the_new_ones(folder, number):
    for last in range(1, n_steps(folder) + 1):
        shutil.rmtree(folder)
        write_together(folder / "list.json", {"n": 1}, BEFORE)

        def refuse(n, last=last):
            if n == last:
                raise OSError(number, os.strerror(number))

        with pytest.MonkeyPatch.context() as patch:
            changes(patch, refuse)
            with suppress(RuntimeError):  # explained()
                write_together(folder / "list.json", {"n": 2}, AFTER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk, "has_ended", lambda mark: True)
            settle(folder / "list.json")
        assert whole(folder) in ((1, BEFORE), (2, AFTER)), last


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("1"), "is not the file that was written (its SHA-256 is"),
        (lambda path: path.write_text("3\n"), "is not the file that was written (its SHA-256 is"),
        (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_named(folder, damage, why):
    damage(folder / "a.csv")
    ((name, said),) = read_list(folder / "list.json").wrong().items()
    assert name == "a.csv"
    assert said.startswith(why)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n": 3}, "its SHA-256 is not that of its content"),
        ({"sha256": "0" * 64}, "its SHA-256 is not that of its content"),
        ({"files": None}, "it lists no files, as those of earlier versions"),
        ({"files": {"../a.csv": "0"}}, "its SHA-256 is not that of its content"),
    ],
)
def test_a_list_that_was_altered_is_none(folder, change, why):
    path = folder / "list.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=why):
        read_list(path)


def test_a_list_that_names_another_folder_is_none_whatever_its_seal(folder):
    content = {"n": 1, "files": {"../a.csv": "0"}}
    sealed = {**content, "sha256": several_files._seal(content)}
    (folder / "list.json").write_text(json.dumps(sealed))
    with pytest.raises(ValueError, match="is not that of its content"):
        read_list(folder / "list.json")


def test_values_are_read_as_they_were_written(tmp_path):
    values = {"x": 0.1 + 0.2, "nan": float("inf"), "text": "ü\u2028", "list": [1, None, True]}
    write_together(tmp_path / "list.json", values, {})
    assert read_list(tmp_path / "list.json").values == values
