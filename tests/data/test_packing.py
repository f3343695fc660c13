import json
import multiprocessing as mp

import numpy as np
import pytest

from experiments.data.packing import PackedCorpus, encode, packed_folder, prepare
from experiments.data.tokenizer import END_OF_TEXT, token_bytes, train_bpe
from tests.conftest import Nursery

VOCAB = 270


def test_tokens_decode_to_the_text_and_its_bytes(tmp_path):
    corpus = prepare(Nursery(), VOCAB, tmp_path)
    tokenizer = train_bpe(Nursery().documents("train", tmp_path), VOCAB)
    documents = list(Nursery().documents("validation", tmp_path))
    tokens = np.asarray(corpus.tokens("validation"))
    assert tokens.dtype == np.uint16
    assert (tokens == tokenizer.token_to_id(END_OF_TEXT)).sum() == len(documents)
    assert tokenizer.decode(tokens.tolist()) == "".join(documents)
    n_bytes = sum(len(d.encode()) for d in documents)
    assert corpus.token_bytes()[tokens].sum() == n_bytes


def test_bytes_of_tokens_hold_beyond_ascii():
    texts = ["naïve café 戦場 – 100 €", "日本語 text"]
    tokenizer = train_bpe(texts * 5, 280)
    ids = encode(tokenizer, texts)
    assert token_bytes(tokenizer)[ids].sum() == sum(len(t.encode()) for t in texts)


def test_is_made_once_and_is_the_same_everywhere(tmp_path):
    first = prepare(Nursery(), VOCAB, tmp_path / "a")
    again = prepare(Nursery(), VOCAB, tmp_path / "b")
    assert first.digests == again.digests
    stamp = (first.folder / "meta.json").stat().st_mtime_ns
    prepare(Nursery(), VOCAB, tmp_path / "a")
    assert (first.folder / "meta.json").stat().st_mtime_ns == stamp


def test_what_changes_the_tokens_changes_the_folder(tmp_path):
    folders = {
        packed_folder(Nursery(n_documents=n), vocab, tmp_path)
        for n in (1, 2)
        for vocab in (300, 301)
    }
    assert len(folders) == 4


def test_a_half_made_folder_is_never_read(tmp_path):
    folder = packed_folder(Nursery(), VOCAB, tmp_path)
    leftover = folder.parent / f".{folder.name}.partial-killed"
    leftover.mkdir(parents=True)
    (leftover / "train.npy").write_bytes(b"half")
    assert prepare(Nursery(), VOCAB, tmp_path).folder == folder
    assert not leftover.exists()


def test_two_processes_make_one_folder(tmp_path):
    with mp.get_context("spawn").Pool(2) as pool:
        made = pool.starmap(_digests, [(tmp_path,)] * 2)
    assert made[0] == made[1]


def _digests(cache):
    return prepare(Nursery(), VOCAB, cache).digests


def test_a_shortened_file_is_refused(tmp_path):
    corpus = prepare(Nursery(), VOCAB, tmp_path)
    np.save(corpus.folder / "train.npy", np.zeros(3, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"holds 3 tokens, not \d+; delete"):
        PackedCorpus(corpus.folder).tokens("train")


def test_meta_says_what_is_there(tmp_path):
    corpus = prepare(Nursery(), VOCAB, tmp_path)
    meta = json.loads((corpus.folder / "meta.json").read_text())
    assert meta["n_tokens"]["train"] == len(corpus.tokens("train"))
    assert corpus.tokens("train").max() < VOCAB


@pytest.mark.parametrize(
    ("vocab_size", "message"), [(100, "must be at least 257"), (5000, "only supports")]
)
def test_refuses_vocabularies_the_text_cannot_give(tmp_path, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        prepare(Nursery(), vocab_size, tmp_path)
    assert not packed_folder(Nursery(), vocab_size, tmp_path).exists()
