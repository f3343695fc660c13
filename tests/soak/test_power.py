"""Disk of the fault harness: what is left after a loss of power, in its three kinds."""

import os
import random

import pytest

from tests.soak.power import LOSSES, Disk


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """Of a folder with one file, which is on it."""
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back afterwards
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "old").write_text("old")
    return Disk(tmp_path / "top")


def write(path, text, synced, how="w"):
    with path.open(how) as file:
        file.write(text)
        file.flush()
        if synced:
            os.fsync(file)


def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def left(disk, how, seed=0):
    target = disk.root.with_name(f"left-{how}-{seed}")
    disk.lose(how, random.Random(seed), target)
    return {str(p.relative_to(target)): p.read_text() for p in target.rglob("*") if p.is_file()}


def test_contents_and_names_are_synced_each_by_itself(disk):
    write(disk.root / "a", "a", synced=True)
    assert left(disk, "power") == {"old": "old"}
    assert left(disk, "names") == {"old": "old", "a": "a"}
    write(disk.root / "b", "b", synced=False)
    sync_folder(disk.root)
    assert left(disk, "power", 1) == left(disk, "names", 1) == {"old": "old", "a": "a", "b": ""}


def test_a_rename_and_a_removal_are_of_the_folder(disk):
    write(disk.root / "new", "new", synced=True)
    (disk.root / "new").rename(disk.root / "old")
    assert left(disk, "power") == {"old": "old"}
    assert left(disk, "names") == {"old": "new"}
    sync_folder(disk.root)
    (disk.root / "old").unlink()
    assert left(disk, "power", 1) == {"old": "new"}


def test_what_was_added_to_a_file_is_lost_and_a_part_of_it_may_stay(disk):
    write(disk.root / "old", "er", synced=False, how="a")
    assert left(disk, "power") == left(disk, "names") == {"old": "old"}
    assert {left(disk, "some", seed)["old"] for seed in range(40)} == {"old", "olde", "older"}


def test_a_folder_within_is_lost_with_what_it_holds(disk):
    (disk.root / "in").mkdir()
    write(disk.root / "in" / "a", "a", synced=True)
    sync_folder(disk.root / "in")
    assert left(disk, "power") == {"old": "old"}
    sync_folder(disk.root)
    assert left(disk, "power", 1) == {"old": "old", "in/a": "a"}


@pytest.mark.parametrize("how", LOSSES)
def test_nothing_synced_is_ever_lost(disk, how):
    write(disk.root / "a", "a", synced=True)
    sync_folder(disk.root)
    for seed in range(5):
        assert left(disk, how, seed) == {"old": "old", "a": "a"}
