"""Tokens are found whole before a run reads them, once, and again when anything has changed."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from experiments.data import packed as tokens_on_disk
from experiments.data.packed import PackedText, open_verified
from experiments.records.files import DamagedError
from tests.data.conftest import packed


@pytest.fixture
def folder(tmp_path):
    return packed(tmp_path / "a", np.arange(300), np.arange(700)).folder


@pytest.fixture
def reads(monkeypatch):
    """Folders that were read whole, in order."""
    found = []
    plain = PackedText.verify

    def verify(self):
        found.append(self.folder.name)
        plain(self)

    monkeypatch.setattr(PackedText, "verify", verify)
    return found


def flip(path, at=5):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_is_read_whole_once(folder, reads):
    for _ in range(3):
        open_verified(folder)
    assert reads == ["a"]


def test_a_flipped_bit_is_found_however_the_clock_is_set(folder):
    open_verified(folder)
    path = folder / "00001.bin"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a tool that restores times
    for _ in range(2):
        with pytest.raises(
            DamagedError, match=r"00001.bin is damaged \(its sha256 is not the one .*; delete .*a,"
        ):
            open_verified(folder)


def test_what_is_replaced_copied_or_indexed_again_is_read_again(folder, reads, tmp_path):
    open_verified(folder)
    shutil.copy2(folder / "00000.bin", tmp_path / "copy")
    (tmp_path / "copy").replace(folder / "00000.bin")  # the same size and times, another inode
    open_verified(folder)
    shutil.copytree(folder, tmp_path / "b")
    shutil.copy2(tmp_path / ".a.verified", tmp_path / ".b.verified")
    open_verified(tmp_path / "b")
    index = folder / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text())))
    open_verified(folder)
    assert reads == ["a", "a", "b", "a"]


def test_a_digest_that_is_wrong_in_the_index_is_found(folder):
    open_verified(folder)
    index = folder / "index.json"
    values = json.loads(index.read_text())
    del values["checksum"]  # of an older version, which had none
    values["shards"][0]["sha256"] = "0" * 64
    index.write_text(json.dumps(values))
    with pytest.raises(DamagedError, match=r"00000.bin is damaged"):
        open_verified(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"time": 1}', "[" * 10**5, '{"time": null}'])
def test_a_damaged_stamp_is_none(folder, reads, tmp_path, text):
    open_verified(folder)
    (tmp_path / ".a.verified").write_text(text)
    open_verified(folder)
    assert reads == ["a", "a"]


@pytest.mark.parametrize("days", [-1, 6.9, 7.1])
def test_a_stamp_holds_for_a_week(folder, reads, monkeypatch, days):
    open_verified(folder)
    now = time.time() + days * 24 * 3600
    monkeypatch.setattr(tokens_on_disk.time, "time", lambda: now)
    open_verified(folder)
    assert len(reads) == (1 if days == 6.9 else 2)


def test_where_nothing_can_be_written_it_is_read_every_time(folder, reads, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    def refuse_to_write(path, flags, *rest, plain=os.open, **named):
        return refuse() if flags & os.O_WRONLY else plain(path, flags, *rest, **named)

    monkeypatch.setattr(tokens_on_disk, "locked", refuse)
    monkeypatch.setattr("experiments.system.disk.os.open", refuse_to_write)
    for _ in range(2):
        assert len(open_verified(folder)) == 1000
    assert reads == ["a", "a"]
    assert not (tmp_path / ".a.verified").exists()


def test_a_write_while_it_is_read_leaves_no_stamp_that_holds(folder, reads, monkeypatch):
    plain = PackedText.verify

    def verify(self):
        plain(self)
        flip(folder / "00000.bin")

    with monkeypatch.context() as patch:
        patch.setattr(PackedText, "verify", verify)
        open_verified(folder)
    with pytest.raises(DamagedError):
        open_verified(folder)
