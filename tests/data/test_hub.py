"""Hub datasets: the same call on a folder of C4's layout, and what happens without a hub."""

import gzip
import json
import pickle
import shutil
import socket
import sys
import time
import urllib.request
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard
from torch.utils.data import DataLoader, IterableDataset

from experiments.config.paths import conf_dir
from experiments.config.reading import build
from experiments.data import hub
from experiments.data.corpus import ShardedCorpus
from experiments.data.files import LocalText
from experiments.data.folders import digest, identity
from experiments.data.hub import HubText, HubUnreachable, resumed

README = """---
configs:
- config_name: en
  data_files:
  - split: train
    path: en/c4-train.*.json.gz
  - split: validation
    path: en/c4-validation.*.json.gz
---
"""
SPLITS = {"train": "train", "validation": "validation"}
N_TRAIN = (700, 5, 300)  # documents of each file: more and fewer than are taken at once


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # read when imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    hub._load_from_hub.cache_clear()


def row(text):
    return json.dumps({"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": "http://u"}) + "\n"


def write(path, texts):
    path.write_bytes(gzip.compress("".join(map(row, texts)).encode()))


@pytest.fixture
def c4(tmp_path):
    folder = tmp_path / "c4"
    (folder / "en").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    for i, n in enumerate(N_TRAIN):
        texts = [f"file {i}, document {j}\nof it" if j % 7 else " \n" for j in range(n)]
        write(folder / "en" / f"c4-train.{i:05}-of-00003.json.gz", texts)
    held_out = [f"held out {j}" for j in range(4)]
    write(folder / "en" / "c4-validation.00000-of-00001.json.gz", held_out)
    return folder


def corpus_of(path, **changes):
    fields = {"name": "en", "revision": None, "splits": SPLITS, "text_field": "text"}
    return HubText(path=str(path), **{**fields, **changes})


def read_all(corpus, split="train"):
    return list(corpus.documents(split, Path("unused")))


def test_a_folder_reads_as_local_text_does(c4):
    corpus = corpus_of(c4)
    local = LocalText(
        path=f"{c4}/en/c4-train.*.json.gz", validation_path=f"{c4}/en/c4-validation.*.json.gz"
    )
    assert read_all(corpus, "validation") == [f"held out {j}" for j in range(4)]
    for split in SPLITS:
        assert read_all(corpus, split) == read_all(local, split)
    assert len(read_all(corpus)) == sum(n - (n + 6) // 7 for n in N_TRAIN)


def test_one_file_is_one_shard_and_shards_add_up_to_the_whole(c4, tmp_path):
    corpus = corpus_of(c4)
    assert isinstance(corpus, ShardedCorpus)
    assert corpus.n_shards("train", tmp_path) == 3
    assert corpus.n_shards("validation", tmp_path) == 1
    shards = [list(corpus.shard_documents("train", i, 0, tmp_path)) for i in range(3)]
    for i, shard in enumerate(shards):
        assert {text.partition(",")[0] for text in shard} == {f"file {i}"}
    assert [text for shard in shards for text in shard] == read_all(corpus)
    for start in (1, 255, 256, 257, 599, 600, 601):  # blank rows in between are not counted
        assert list(corpus.shard_documents("train", 0, start, tmp_path)) == shards[0][start:]
    with pytest.raises(ValueError, match="shard=3 of train must be from 0 to 2"):
        list(corpus.shard_documents("train", 3, 0, tmp_path))


class _OneFileAWorker(IterableDataset):
    def __init__(self, corpus):
        self.corpus = corpus

    def __iter__(self):
        worker = torch.utils.data.get_worker_info().id
        for text in self.corpus.shard_documents("train", worker, 0, Path("unused")):
            yield worker, text


def test_every_loader_worker_gets_the_file_it_asks_for(c4, tmp_path):
    # iterated row by row, a stream of one file is empty in every worker but the first
    corpus = pickle.loads(pickle.dumps(corpus_of(c4)))
    got = {0: [], 1: []}
    loader = DataLoader(
        _OneFileAWorker(corpus), num_workers=2, batch_size=None, multiprocessing_context="spawn"
    )
    for worker, text in loader:
        got[worker].append(text)
    for worker, texts in got.items():
        assert texts == list(corpus.shard_documents("train", worker, 0, tmp_path))


def test_parquet_and_zst_with_detected_splits(tmp_path):
    texts = [f"document {i}" for i in range(600)]
    (tmp_path / "p" / "en").mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.table({"body": texts}), tmp_path / "p" / "test-00000-of-00001.parquet"
    )
    parquet = corpus_of(tmp_path / "p", name=None, splits={"test": "test"}, text_field="body")
    assert read_all(parquet, "test") == texts
    (tmp_path / "pile").mkdir()
    (tmp_path / "pile" / "val.jsonl.zst").write_bytes(
        zstandard.ZstdCompressor().compress("".join(map(row, texts)).encode())
    )
    pile = corpus_of(tmp_path / "pile", name=None, splits={"validation": "validation"})
    assert read_all(pile, "validation") == texts


def test_identity_is_the_content_and_not_the_place(c4, tmp_path):
    first = identity(corpus_of(c4))
    digest(first)  # plain values
    shutil.move(c4, tmp_path / "moved")
    (tmp_path / "moved" / ".cache").mkdir()
    (tmp_path / "moved" / ".cache" / "x").write_text("x")
    assert identity(corpus_of(tmp_path / "moved")) == first
    assert identity(corpus_of(tmp_path / "moved", text_field="url")) != first
    write(tmp_path / "moved" / "en" / "c4-train.00001-of-00003.json.gz", ["another"])
    assert identity(corpus_of(tmp_path / "moved")) != first
    named = identity(corpus_of("allenai/c4", revision="main"))
    assert (named["path"], named["name"], named["revision"]) == ("allenai/c4", "en", "main")


def test_what_the_dataset_does_not_have(c4):
    with pytest.raises(ValueError, match="split='test' is not one of train, validation"):
        read_all(corpus_of(c4), "test")
    with pytest.raises(ValueError, match=r"can't be opened: Bad split: test\. Available"):
        read_all(corpus_of(c4, splits={"test": "test"}), "test")
    with pytest.raises(ValueError, match="can't be opened: BuilderConfig 'de' not found"):
        read_all(corpus_of(c4, name="de"))
    with pytest.raises(ValueError, match="has no column 'body'; it has text, timestamp, url"):
        read_all(corpus_of(c4, text_field="body"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file 1 of 3 holds no text"),
        (gzip.compress(row(" ").encode(), mtime=0), "file 1 of 3 holds no text"),
        (
            gzip.compress(row("a").encode() * 99, mtime=0)[:-20],
            "file 1 of 3 can't be read after .* EOFError",
        ),
        (gzip.compress((row("a") + '{"url": "u"}\n').encode()), "row 2: 'text' is missing"),
        (gzip.compress((row("a") + row(None)).encode()), "row 2: 'text' is missing"),
        (gzip.compress(b'{"body": "a"}\n'), "(can't be read after 0 rows|has no column)"),
    ],
    ids=["0 bytes", "blank", "truncated", "no field", "null", "other fields"],
)
def test_what_cannot_be_read_is_one_error_with_the_file(c4, content, message):
    (c4 / "en" / "c4-train.00001-of-00003.json.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_all(corpus_of(c4))
    assert str(caught.value).startswith(f"{c4} (en, train), file 1 of 3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "./c4", "~/c4/en", "a/b/c", ""])
def test_a_folder_that_is_none_is_refused_before_anything_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is neither a folder nor the name of a dataset"):
        corpus_of(path)


def test_splits_are_checked():
    with pytest.raises(ValueError, match="must name the dataset's split of each of ours"):
        corpus_of("allenai/c4", splits={})


LINE = r"can't reach the Hugging Face hub for allenai/c4 \(.+\); use data=packages, .* data\.path="


def test_offline_and_not_cached_is_one_line_at_once():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=LINE) as caught:
        read_all(corpus_of("allenai/c4"))
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("behind_a_proxy", [False, True])
def test_no_hub_is_one_line_at_once(monkeypatch, behind_a_proxy):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        nothing = f"http://127.0.0.1:{taken.getsockname()[1]}"
        if behind_a_proxy:
            monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": nothing})
            monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: host != "hub.invalid")
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
        else:
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", nothing)
        start = time.monotonic()
        line = LINE.replace(".+", r".*127\.0\.0\.1: .+")
        for _ in range(2):  # a failure is not remembered as an answer
            with pytest.raises(RuntimeError, match=line):
                corpus_of("allenai/c4").n_shards("train", Path("unused"))
    assert time.monotonic() - start < 10


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeError, match=r"pip install -e '\.\[hub\]'"):
        read_all(corpus_of("allenai/c4"))


class _Flaky:
    """A stream of 0..9 that breaks when it has given so many items."""

    def __init__(self, breaks, error):
        self.breaks, self.error, self.starts = list(breaks), error, []

    def __call__(self, start):
        self.starts.append(start)
        stop = self.breaks.pop(0) if self.breaks else None
        for i in range(start, 10):
            if i == stop:
                raise self.error
            yield i


@pytest.fixture
def pauses(monkeypatch):
    """Seconds that would have been slept."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


_OfAClient = type("ReadError", (Exception,), {"__module__": "httpx._exceptions"})


@pytest.mark.parametrize(
    "error", [ConnectionError("reset"), TimeoutError(), EOFError(), _OfAClient("cut")]
)
def test_a_stream_that_breaks_goes_on_where_it_was(pauses, error):
    stream = _Flaky([3, 3, 8], error)
    assert list(resumed(stream, "allenai/c4")) == list(range(10))
    assert stream.starts == [0, 3, 3, 8]
    assert pauses == [1.0, 5.0, 1.0]  # an item had starts the count at 0


def test_a_stream_that_stays_broken_ends_in_the_line(pauses):
    stream = _Flaky([4] * 9, ConnectionError("reset by peer"))
    got = []
    with pytest.raises(HubUnreachable, match=LINE):
        got.extend(resumed(stream, "allenai/c4"))
    assert (stream.starts, pauses) == ([0, 4, 4, 4], [1.0, 5.0, 20.0])


def test_other_errors_are_not_tried_again(pauses):
    for error, remote in ((ValueError("bad"), True), (EOFError("cut"), False)):
        stream = _Flaky([4], error)
        with pytest.raises(type(error)):
            list(resumed(stream, "allenai/c4", remote))
        assert (stream.starts, pauses) == ([0], [])


def test_a_broken_hub_stream_loses_and_repeats_nothing(c4, pauses, monkeypatch):
    # the real stream of a folder, taken for the hub's, whose batches break off three times
    monkeypatch.setattr(HubText, "_folder", lambda self: None)
    monkeypatch.setattr(hub, "_load_from_hub", lambda path, *a: hub._load(path, *a))
    plain, failures = hub._column, iter([1, 256, 500])

    def column(rows, name, where, start):
        stop = next(failures, None)
        for n, text in enumerate(plain(rows, name, where, start), start):
            if n == stop:
                raise ConnectionError("reset")
            yield text

    corpus = object.__new__(HubText)
    for name, value in vars(corpus_of("allenai/c4")).items():
        object.__setattr__(corpus, name, value)
    object.__setattr__(corpus, "path", str(c4))
    whole = read_all(corpus)
    monkeypatch.setattr(hub, "_column", column)
    assert read_all(corpus) == whole
    assert pauses == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("path", sorted(conf_dir().glob("eval/*.yaml")), ids=lambda p: p.stem)
def test_evaluation_sets_can_be_built(path):
    from omegaconf import OmegaConf

    assert path.read_text().startswith(f"# @package eval.{path.stem}\n")
    node = OmegaConf.to_container(OmegaConf.load(path))
    if node.get("corpus") is None:
        return  # the run's own, or composed from data/
    corpus = build(node["corpus"], "corpus")
    assert set(node["splits"]) <= set(getattr(corpus, "splits", node["splits"]))
