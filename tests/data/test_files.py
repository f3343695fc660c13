"""Local text: every format, every way to be unreadable, and shards that add up to the whole."""

import gzip
import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from experiments.config.reading import read
from experiments.data import files
from experiments.data.corpus import ShardedCorpus
from experiments.data.files import LocalText
from experiments.data.folders import digest, identity

TEXTS = [f"document {i}: the cat sat\non the mat" for i in range(60)]


def jsonl(texts, field="text"):
    return "".join(json.dumps({field: t, "url": "u"}) + "\n" for t in texts).encode()


def parquet(path, texts, field="text"):
    pyarrow.parquet.write_table(pyarrow.table({field: texts, "url": ["u"] * len(texts)}), path)


@pytest.fixture
def folder(tmp_path):
    """Ten documents in each of six files, one a format, and files that are none."""
    folder = tmp_path / "texts"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(jsonl(TEXTS[:10]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(TEXTS[10:20])))
    (folder / "c.json.gz").write_bytes(gzip.compress(jsonl(TEXTS[20:30])))
    parquet(folder / "d.parquet", TEXTS[30:40])
    (folder / "deep" / "er" / "e.txt").write_text("\n\n \n".join(TEXTS[40:50]) + "\n\n\n")
    (folder / "deep" / "f.TXT.gz").write_bytes(gzip.compress("\n\n".join(TEXTS[50:]).encode()))
    (folder / "README.md").write_text("no text")
    (folder / "a.csv").write_text("no,text")
    (folder / ".hidden.txt").write_text("no text")
    return folder


def read_all(corpus, split="train"):
    return list(corpus.documents(split, Path("unused")))


def both(corpus):
    return read_all(corpus, "train"), read_all(corpus, "validation")


def test_reads_every_format_once_and_splits_by_the_hash(folder):
    corpus = LocalText(path=str(folder), validation_every=5)
    train, validation = both(corpus)
    assert sorted(train + validation) == sorted(TEXTS)
    held_out = [
        t
        for t in TEXTS
        if int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest()) % 5 == 0
    ]
    assert validation == held_out
    assert len(held_out) > 1
    assert train == [t for t in TEXTS if t not in held_out]  # in the order of the files


def test_held_out_files(folder, tmp_path):
    (tmp_path / "held.txt").write_text("held out\n\nand this")
    corpus = LocalText(path=str(folder), validation_path=str(tmp_path / "held.txt"))
    assert both(corpus) == (TEXTS, ["held out", "and this"])
    with pytest.raises(ValueError, match=r"path=.* and validation_path=.* both have .*a\.jsonl"):
        LocalText(path=str(folder), validation_path=str(folder / "*.jsonl"))


def test_shards_add_up_to_the_whole(folder, tmp_path):
    corpus = LocalText(path=str(folder), validation_every=5)
    assert isinstance(corpus, ShardedCorpus)
    for split in ("train", "validation"):
        n = corpus.n_shards(split, tmp_path)
        assert n == 6
        shards = [list(corpus.shard_documents(split, i, 0, tmp_path)) for i in range(n)]
        assert [text for shard in shards for text in shard] == read_all(corpus, split)
        for i, shard in enumerate(shards):
            for start in range(len(shard) + 2):
                assert list(corpus.shard_documents(split, i, start, tmp_path)) == shard[start:]
    with pytest.raises(ValueError, match="shard=6 of train must be from 0 to 5"):
        list(corpus.shard_documents("train", 6, 0, tmp_path))


def test_files_globs_and_home(folder, monkeypatch):
    one = LocalText(path=str(folder / "a.jsonl"), validation_every=2)
    assert sorted(text for split in both(one) for text in split) == sorted(TEXTS[:10])
    deep = LocalText(path=f"{folder}/**/*.[tT][xX]*", validation_every=2)
    assert deep.n_shards("train", Path()) == 2
    monkeypatch.setenv("HOME", str(folder.parent))
    home = LocalText(path="~/texts", validation_every=2)
    assert home.n_shards("train", Path()) == 6


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("paragraph", ["one\ntwo", "three"]),
        ("line", ["one", "two", "three"]),
        ("file", ["one\ntwo\n \nthree"]),
    ],
)
def test_units_of_plain_text(tmp_path, unit, expected):
    (tmp_path / "held.txt").write_text("held")
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n \r\nthree\r\n")
    corpus = LocalText(
        path=str(tmp_path / "t.txt"), validation_path=str(tmp_path / "held.txt"), text_unit=unit
    )
    assert read_all(corpus) == expected


def test_blank_texts_are_no_documents(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b"\n" + jsonl(["one", " \n", "", "two"]) + b"\n")
    (tmp_path / "held.txt").write_text("held")
    corpus = LocalText(path=str(tmp_path / "t.jsonl"), validation_path=str(tmp_path / "held.txt"))
    assert read_all(corpus) == ["one", "two"]
    assert list(corpus.shard_documents("train", 0, 1, tmp_path)) == ["two"]


GZIP = gzip.compress(jsonl([hashlib.sha256(t.encode()).hexdigest() for t in TEXTS]), mtime=0)
UNREADABLE = {
    "0 bytes": ("t.jsonl", b"", r"is empty \(0 bytes\); remove it"),
    "0 bytes of gzip": ("t.txt.gz", b"", r"is empty \(0 bytes\); remove it"),
    "nothing in a gzip": (
        "t.txt.gz",
        gzip.compress(b"", mtime=0),
        "holds no document, only white space",
    ),
    "white space": ("t.txt", b" \n\n\t\n", "holds no document, only white space"),
    "NUL in text": ("t.txt", b"text\nmore\0text\n", "line 2 holds a NUL byte: a binary file"),
    "NUL in JSON": ("t.jsonl", b"\0\1\2", "line 1 holds a NUL byte: a binary file"),
    "UTF-16": ("t.txt", "text".encode("utf-16"), "line 1 holds a NUL byte.*iconv -t UTF-8"),
    "Latin-1": (
        "t.txt",
        "a\n\ncaf\xe9".encode("latin-1"),
        r"line 3 is not UTF-8 \(byte 3 is 0xe9\)",
    ),
    "truncated gzip": (
        "t.json.gz",
        GZIP[: len(GZIP) // 2],
        r"truncated or damaged gzip: [1-9]\d* documents could be read, then: Compressed file",
    ),
    "damaged gzip": (
        "t.json.gz",
        GZIP[:200] + bytes(40) + GZIP[240:],
        r"truncated or damaged gzip: \d+ documents could be read, then: ",
    ),
    "wrong checksum": (
        "t.json.gz",
        GZIP[:-8] + bytes(8),
        "truncated or damaged gzip: 60 documents could be read, then: CRC check failed",
    ),
    "not gzip": ("t.txt.gz", b"plain text", "0 documents could be read, then: Not a gzipped file"),
    "not JSON": ("t.jsonl", jsonl(["a"]) + b"text\n", r"line 2 is not JSON \(Expecting value"),
    "cut JSON": ("t.jsonl", jsonl(["a", "b"])[:-9], r"line 2 is not JSON \("),
    "deep JSON": ("t.jsonl", b"[" * 100_000, r"line 1 is not JSON \(maximum recursion"),
    "an array": ("t.jsonl", b'[{"text": "a"}]\n', "line 1 is a JSON list, not an object"),
    "no field": (
        "t.jsonl",
        jsonl(["a"], "content"),
        "line 1 has no field 'text'; it has content, url; .* with text_field",
    ),
    "a number": ("t.jsonl", b'{"text": 5}', "line 1: 'text' is of type int, not a string"),
    "null": ("t.jsonl", b'{"text": null}', "line 1: 'text' is null, not a string"),
    "surrogate": ("t.jsonl", rb'{"text": "a\ud800"}', "line 1: 'text' holds a lone surrogate"),
    "no parquet": ("t.parquet", b"plain text", "truncated or damaged parquet: 0 rows"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_one_error_with_file_and_place(tmp_path, case):
    name, content, message = UNREADABLE[case]
    (tmp_path / name).write_bytes(content)
    corpus = LocalText(path=str(tmp_path))
    with pytest.raises(ValueError, match=message) as caught:
        read_all(corpus)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "field", "message"),
    [
        (["a"], "content", "has no field 'text'; it has content, url"),
        (["a", None], "text", "row 2: 'text' is null"),
        ([1, 2], "text", "row 1: 'text' is of type int"),
        ([" "], "text", "holds no document"),
    ],
)
def test_parquet_that_does_not_fit(tmp_path, texts, field, message):
    parquet(tmp_path / "t.parquet", texts, field)
    with pytest.raises(ValueError, match=message):
        read_all(LocalText(path=str(tmp_path)))


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: whole[:4] + bytes(100) + whole[104:]],
    ids=["truncated", "damaged pages"],
)
def test_damaged_parquet(tmp_path, damage):
    path = tmp_path / "t.parquet"
    parquet(path, TEXTS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"t\.parquet is truncated or damaged parquet: 0 rows"):
        read_all(LocalText(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", r"nowhere' does not exist; .*\.jsonl, \.jsonl\.gz, \.json\.gz, \.parquet"),
        ("*.txt", "matches no file"),
        ("empty", r"is a folder without a file to read; read are \.jsonl"),
        ("others", "is a folder without a file to read"),
        ("others/*", r"a\.csv has a suffix that is not read; read are \.jsonl"),
        ("others/a.csv", r"a\.csv has a suffix that is not read"),
    ],
)
def test_a_path_without_text_is_refused_before_anything_runs(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.csv").write_text("a")
    with pytest.raises(ValueError, match=message) as caught:
        read(LocalText, {"path": f"{tmp_path}/{path}"}, "data.corpus")
    assert repr(f"{tmp_path}/{path}") in str(caught.value)


def test_a_relative_path_is_looked_for_in_the_working_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert read_all(LocalText(path=folder.name))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"not exist below .*elsewhere, where .* it was trained"):
        LocalText(path=folder.name)


def test_values_that_are_refused(folder):
    with pytest.raises(ValueError, match="path='' is empty"):
        LocalText(path="")
    with pytest.raises(ValueError, match="validation_every=1 must be at least 2"):
        LocalText(path=str(folder), validation_every=1)
    with pytest.raises(ValueError, match="is not one of paragraph, line, file"):
        read(LocalText, {"path": str(folder), "text_unit": "page"})
    with pytest.raises(ValueError, match="split='test' is not one of train, validation"):
        read_all(LocalText(path=str(folder)), "test")


def test_a_split_without_documents_is_refused(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\ntwo")
    corpus = LocalText(path=str(tmp_path), validation_every=10**9)
    assert read_all(corpus) == ["one", "two"]
    with pytest.raises(ValueError, match=r"is in the split validation: .*validation_path"):
        read_all(corpus, "validation")


def test_parquet_without_pyarrow_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RuntimeError, match=r"pip install -e '\.\[hub\]'"):
        LocalText(path=str(folder))
    LocalText(path=str(folder / "a.jsonl"))


def test_identity_is_the_content_and_not_the_place(folder, tmp_path):
    first = identity(LocalText(path=str(folder)))
    digest(first)  # plain values
    assert str(tmp_path) not in json.dumps(first)
    shutil.move(folder, tmp_path / "moved")
    moved = tmp_path / "moved"
    assert identity(LocalText(path=str(moved))) == first
    assert identity(LocalText(path=str(moved), validation_every=7)) != first
    (moved / "a.jsonl").write_bytes(jsonl(TEXTS[1:11]))
    changed = identity(LocalText(path=str(moved)))
    assert changed != first
    (moved / "a.jsonl").rename(moved / "z.jsonl")  # the order of the documents is another
    assert identity(LocalText(path=str(moved))) not in (first, changed)


def test_identity_sees_both_ends_of_a_large_file(tmp_path):
    seen = set()
    for place in (0, 65_535, 200_000 - 65_536, 199_999):
        text = bytearray(b"x" * 200_000)
        text[place] = ord("y")
        path = tmp_path / str(place) / "t.txt"  # a place each: a rewrite may keep the mtime's tick
        path.parent.mkdir()
        path.write_bytes(text)
        seen.add(digest(identity(LocalText(path=str(path)))))
    assert len(seen) == 4


def test_a_sweep_reads_the_ends_once(folder, monkeypatch):
    corpus = LocalText(path=str(folder))
    first = corpus.identity()
    monkeypatch.setattr(files, "open_regular", lambda *_: pytest.fail("read again"))
    assert corpus.identity() == first


def test_goes_to_loader_workers(folder):
    corpus = LocalText(path=str(folder), validation_every=5)
    assert both(pickle.loads(pickle.dumps(corpus))) == both(corpus)
