"""Packing: exact, resumed where it was killed, shared by processes, whole on a full disk."""

import hashlib
import json
import multiprocessing as mp
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from experiments.data import packing
from experiments.data.checked import write_checked
from experiments.data.folders import packed_folder
from experiments.data.packed import PackedText
from experiments.data.packing import encode, pack
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary
from experiments.records.files import DamagedError
from tests.conftest import Nursery

BPE = TrainedBPE(vocab_size=270)


def folder_of(corpus, cache, split="train", **keywords):
    return packed_folder(corpus, split, BPE, corpus, cache, **keywords)


def packed(corpus, cache, split="train", max_tokens=None):
    vocabulary = prepare_vocabulary(BPE, corpus, cache)
    folder = folder_of(corpus, cache, split, max_tokens=max_tokens)
    return pack(corpus, split, vocabulary, folder, cache, max_tokens)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Nursery, telling a file how many documents were asked for; fails at document `fail`."""

    log: str
    fail: int = -1

    def identity(self):
        return {}

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        for i, text in enumerate(Nursery().documents(split, cache)):
            if i == self.fail:
                raise ValueError("line 151 of the file is not JSON")
            yield text


def test_tokens_decode_to_the_text_and_its_bytes(tmp_path):
    text = packed(Nursery(), tmp_path, "validation")
    vocabulary = prepare_vocabulary(BPE, Nursery(), tmp_path)
    documents = list(Nursery().documents("validation", tmp_path))
    tokens = text[0 : len(text)]
    assert tokens.dtype == np.uint16
    assert (tokens == vocabulary.end_of_text).sum() == len(documents) == text.n_documents
    assert tokens[-1] == vocabulary.end_of_text
    assert vocabulary.tokenizer().decode(tokens.tolist()) == "".join(documents)
    n_bytes = sum(len(d.encode()) for d in documents)
    assert vocabulary.token_bytes()[tokens].sum() == n_bytes == text.n_bytes


def test_a_document_that_spells_the_end_of_text_does_not_end(vocabulary):
    ((tokens, n_bytes),) = encode(vocabulary, iter(["a <|endoftext|> b"]))
    assert (tokens == vocabulary.end_of_text).sum() == 1
    assert vocabulary.tokenizer().decode(tokens[:-1].tolist()) == "a <|endoftext|> b"
    assert n_bytes == 17


def test_chunks_change_nothing(vocabulary):
    texts = list(Nursery().documents("train", Path()))
    whole = [t.tolist() for t, _ in encode(vocabulary, iter(texts))]
    assert whole == [t.tolist() for t, _ in encode(vocabulary, iter(texts), 100)]


def test_is_made_once_and_is_the_same_everywhere(tmp_path, monkeypatch):
    first = packed(Nursery(), tmp_path / "a")
    monkeypatch.setattr(packing, "SHARD_TOKENS", 500)
    again = packed(Nursery(), tmp_path / "b")
    assert len(again.shards) > 5 > len(first.shards)
    assert again[0 : len(again)].tolist() == first[0 : len(first)].tolist()
    stamp = (first.folder / "index.json").stat().st_mtime_ns
    packed(Nursery(), tmp_path / "a")
    assert (first.folder / "index.json").stat().st_mtime_ns == stamp
    assert not list(first.folder.parent.glob(".*partial*"))


def test_what_changes_the_tokens_changes_the_folder(tmp_path):
    folders = {
        packed_folder(Nursery(n_documents=n), split, TrainedBPE(vocab_size=v), Nursery(), tmp_path)
        for n in (1, 2)
        for v in (300, 301)
        for split in ("train", "validation")
    }
    assert len(folders) == 8
    assert folder_of(Nursery(), tmp_path) != folder_of(Nursery(), tmp_path, max_tokens=5)


def test_stops_after_the_document_that_reaches_the_limit(tmp_path):
    whole, part = packed(Nursery(), tmp_path), packed(Nursery(), tmp_path, max_tokens=1000)
    lengths = np.cumsum(
        [len(t) for t, _ in encode(prepare_vocabulary(BPE, Nursery(), tmp_path),
                                   Nursery().documents("train", tmp_path))]
    )  # fmt: skip
    assert len(part) == lengths[lengths >= 1000][0] < len(whole)


def test_goes_on_after_the_last_whole_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 1000)
    expected = packed(Nursery(), tmp_path / "whole")
    cache = tmp_path / "broken"
    broken = Recorded(log="", fail=150)
    vocabulary = prepare_vocabulary(BPE, Nursery(), cache)
    folder = folder_of(Nursery(), cache)
    with pytest.raises(ValueError, match="line 151"):
        pack(broken, "train", vocabulary, folder, cache)
    assert not folder.exists()
    partial = folder.with_name(f".{folder.name}.partial")
    journal = (partial / "journal.jsonl").read_text().splitlines()
    assert len(journal) >= 3
    # what a killed process may leave beside: a half-written shard, half a line
    (partial / "00099.bin.partial").write_bytes(b"half")
    (partial / "journal.jsonl").write_text("\n".join(journal)[:-7])
    stamps = {p.name: p.stat().st_mtime_ns for p in partial.glob("*.bin")}
    result = pack(Nursery(), "train", vocabulary, folder, cache)
    assert [s.sha256 for s in result.shards] == [s.sha256 for s in expected.shards]
    kept = [n for n, t in stamps.items() if (folder / n).stat().st_mtime_ns == t]
    assert len(kept) == len(journal) - 1
    assert {p.name for p in folder.iterdir()} == {"index.json", *(s.file for s in result.shards)}


def test_a_damaged_shard_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(packing, "_CHUNK_BYTES", 1000)
    expected = packed(Nursery(), tmp_path / "whole")
    vocabulary = prepare_vocabulary(BPE, Nursery(), tmp_path)
    folder = folder_of(Nursery(), tmp_path)
    with pytest.raises(ValueError, match="line 151"):
        pack(Recorded(log="", fail=150), "train", vocabulary, folder, tmp_path)
    first = folder.with_name(f".{folder.name}.partial") / "00000.bin"
    first.write_bytes(first.read_bytes()[::-1])
    assert pack(Nursery(), "train", vocabulary, folder, tmp_path).digest == expected.digest


@dataclass(frozen=True, kw_only=True)
class Slow:
    """Nursery at a document every few milliseconds: time enough to be killed."""

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        for text in Nursery().documents(split, cache):
            time.sleep(0.005)
            yield text


def _pack_slowly(cache):
    packing.SHARD_TOKENS, packing._CHUNK_BYTES = 500, 2000
    vocabulary = prepare_vocabulary(BPE, Nursery(), cache)
    folder = packed_folder(Slow(), "train", BPE, Nursery(), cache)
    return pack(Slow(), "train", vocabulary, folder, cache).digest


def test_kill_minus_nine_loses_nothing_whole(tmp_path, digest):
    expected = digest(tmp_path / "whole")
    process = mp.get_context("spawn").Process(target=_pack_slowly, args=(tmp_path / "killed",))
    process.start()
    deadline = time.monotonic() + 60
    while not (journals := list(tmp_path.glob("killed/tokens/.*.partial/journal.jsonl"))) or (
        len(journals[0].read_text().splitlines()) < 2
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (partial,) = (tmp_path / "killed/tokens").glob(".*.partial")
    assert not list((tmp_path / "killed/tokens").glob("slow-*"))
    before = {p.name: p.stat().st_mtime_ns for p in partial.glob("*.bin")}
    assert len(before) >= 2
    assert digest(tmp_path / "killed") == expected
    (folder,) = (tmp_path / "killed/tokens").glob("slow-*")
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.bin")}
    assert before.items() <= kept.items()


@pytest.fixture
def digest(monkeypatch):
    """digest(cache): what such a process makes, made in this one."""
    for name in ("SHARD_TOKENS", "_CHUNK_BYTES"):  # as they were before _pack_slowly
        monkeypatch.setattr(packing, name, getattr(packing, name))
    return _pack_slowly


def test_two_processes_make_one_folder(tmp_path, digest):
    with mp.get_context("spawn").Pool(2) as pool:
        made = pool.map(_pack_slowly, [tmp_path] * 2)
    assert made[0] == made[1] == digest(tmp_path / "alone")
    assert len(list((tmp_path / "tokens").glob("slow-*"))) == 1


def test_a_split_without_text_is_refused(tmp_path):
    vocabulary = prepare_vocabulary(BPE, Nursery(), tmp_path)
    nothing = Nursery(n_documents=0)
    with pytest.raises(ValueError, match="the train split of Nursery has no text"):
        pack(nothing, "train", vocabulary, folder_of(nothing, tmp_path), tmp_path)
    assert not list((tmp_path / "tokens").glob("nursery-*"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB. Needs the right to mount one, which root has outside most containers."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("can't mount a tmpfs here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_cache_stays_whole(
    tmp_path, small_disk, monkeypatch
):
    monkeypatch.setattr(packing, "SHARD_TOKENS", 4000)
    corpus = Nursery(n_documents=2000)
    vocabulary = prepare_vocabulary(BPE, Nursery(), tmp_path)
    folder = packed_folder(corpus, "train", BPE, Nursery(), small_disk)
    with pytest.raises(RuntimeError, match=r"no space left to write .*/disk/.*paths.cache="):
        pack(corpus, "train", vocabulary, folder, small_disk)
    assert not folder.exists()
    assert not list(small_disk.rglob("*.bin.partial"))
    subprocess.run(["mount", "-o", "remount,size=10M", str(small_disk)], check=True)
    result = pack(corpus, "train", vocabulary, folder, small_disk)
    result.verify()
    elsewhere = packed_folder(corpus, "train", BPE, Nursery(), tmp_path)
    assert pack(corpus, "train", vocabulary, elsewhere, tmp_path).digest == result.digest


def test_the_index_says_what_is_there(tmp_path):
    text = packed(Nursery(), tmp_path)
    index = json.loads((text.folder / "index.json").read_text())
    assert index["dtype"] == "<u2"
    assert sum(s["n_documents"] for s in index["shards"]) == 200
    PackedText(text.folder).verify()


def test_fresh_tokens_are_not_read_a_second_time_and_damaged_ones_are_refused(
    tmp_path, monkeypatch
):
    def verify(self):
        raise AssertionError("read again")

    with monkeypatch.context() as patch:
        patch.setattr(PackedText, "verify", verify)
        text = packed(Nursery(), tmp_path)
    shard = text.folder / "00000.bin"
    shard.write_bytes(bytes(byte ^ 1 for byte in shard.read_bytes()))
    with pytest.raises(DamagedError, match=r"00000.bin is damaged"):
        packed(Nursery(), tmp_path)


def test_tokens_of_another_tokenizer_are_refused(tmp_path):
    """One that was made again from a changed text, say, under the same name."""
    folder = packed(Nursery(), tmp_path).folder
    vocabulary = prepare_vocabulary(BPE, Nursery(), tmp_path)
    content = vocabulary.read() + "\n"
    (vocabulary.folder / "tokenizer.json").write_text(content)
    meta = {"n_entries": vocabulary.n_entries, "end_of_text": vocabulary.end_of_text}
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    write_checked(vocabulary.folder / "meta.json", {**meta, "sha256": sha256})
    with pytest.raises(DamagedError, match=r"index.json .* made by another tokenizer than .*; del"):
        pack(Nursery(), "train", Vocabulary(vocabulary.folder), folder, tmp_path)


@dataclass(frozen=True, kw_only=True)
class OfDomain(Nursery):
    """Nursery, under the name of a domain."""

    domain: str


def test_what_is_tokenized_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "_MIN_SECONDS", 0)
    packed(OfDomain(domain="mueller"), tmp_path, "validation")
    assert "tokenized validation of OfDomain mueller: " in capsys.readouterr().out
    packed(Nursery(), tmp_path, "validation")
    assert "tokenized validation of Nursery: " in capsys.readouterr().out
