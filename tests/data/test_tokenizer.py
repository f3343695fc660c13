"""Tokenizers: trained, GPT-2's own, and a Hugging Face tokenizer.json."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from experiments.data.folders import identity, vocabulary_folder, vocabulary_key
from experiments.data.packing import encode
from experiments.data.tokenizer import (
    END_OF_TEXT,
    HuggingFaceTokenizer,
    TrainedBPE,
    sample,
    token_bytes,
    train_bpe,
)
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary
from experiments.records.files import DamagedError
from tests.conftest import Nursery

FOREIGN = ["naïve café 戦場 – 100 €", "日本語 text", "𝄞 clef"]


def test_bytes_of_tokens_hold_beyond_ascii(tmp_path):
    tokenizer = train_bpe(FOREIGN * 5, 280)
    sizes = token_bytes(tokenizer)
    for text in FOREIGN:
        assert sizes[tokenizer.encode(text).ids].sum() == len(text.encode())


def test_the_same_text_gives_the_same_hash(tmp_path):
    bpe = TrainedBPE(vocab_size=270)
    a, b = (prepare_vocabulary(bpe, Nursery(), tmp_path / x) for x in "ab")
    assert a.sha256 == b.sha256
    assert (a.n_entries, a.end_of_text) == (270, 0)


def test_a_trained_vocabulary_depends_on_its_text_and_a_given_one_does_not(gpt2):
    bpe = TrainedBPE(vocab_size=270)
    one, two = Nursery(n_documents=1), Nursery(n_documents=2)
    assert vocabulary_key(bpe, one) != vocabulary_key(bpe, two)
    assert vocabulary_key(replace(bpe, vocab_size=271), one) != vocabulary_key(bpe, one)
    assert vocabulary_key(gpt2, one) == vocabulary_key(gpt2, two)


def test_refuses_vocabularies_the_text_cannot_give(tmp_path):
    with pytest.raises(ValueError, match="must be at least 257"):
        TrainedBPE(vocab_size=100)
    big = TrainedBPE(vocab_size=5000)
    with pytest.raises(ValueError, match="only supports"):
        prepare_vocabulary(big, Nursery(), tmp_path)
    assert not vocabulary_folder(big, Nursery(), tmp_path).exists()


@dataclass(frozen=True, kw_only=True)
class Files:
    """40 files of 10 documents of 10 bytes."""

    def n_shards(self, split: str, cache: Path) -> int:
        return 40

    def shard_documents(self, split: str, shard: int, start: int, cache: Path):
        return (f"{shard:04d} {i:04d}\n" for i in range(start, 10))

    def documents(self, split: str, cache: Path):
        return (t for s in range(40) for t in self.shard_documents(split, s, 0, cache))


def test_a_sample_is_spread_over_the_files():
    texts = list(sample(Files(), 800, Path()))
    assert len(texts) == 80
    assert len({text[:4] for text in texts}) == 16
    assert len(list(sample(Files(), 10**9, Path()))) == 160


@pytest.fixture
def gpt2(compose_raw):
    from experiments.config.reading import build

    return build(compose_raw("tokenizer=gpt2")["data"]["tokenizer"], "data.tokenizer")


def test_gpt2_is_gpt2(gpt2, cache):
    vocabulary = prepare_vocabulary(gpt2, Nursery(), cache)
    assert (vocabulary.n_entries, vocabulary.end_of_text) == (50257, 50256)
    ((tokens, _),) = encode(vocabulary, iter(["Hello world,"]))
    assert tokens.tolist() == [15496, 995, 11, 50256]  # OpenAI's ids
    ((tokens, n_bytes),) = encode(vocabulary, iter(FOREIGN[:1]))
    assert vocabulary.token_bytes()[tokens].sum() == n_bytes


@pytest.fixture
def file(tmp_path):
    """A tokenizer.json as another project would ship it: another end of text, an added entry."""
    tokenizer = train_bpe(Nursery().documents("train", tmp_path), 270)
    text = tokenizer.to_str().replace(END_OF_TEXT, "</s>")
    path = tmp_path / "shipped" / "tokenizer.json"
    path.parent.mkdir()
    tokenizer = Tokenizer.from_str(text)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.save(str(path))
    return path


def test_a_tokenizer_json_by_file_or_folder(file, tmp_path):
    by_file, by_folder = (HuggingFaceTokenizer(name=str(p)) for p in (file, file.parent))
    assert identity(by_file) == identity(by_folder)
    assert by_file.n_entries() == 271
    vocabulary = prepare_vocabulary(by_file, Nursery(), tmp_path)
    assert (vocabulary.n_entries, vocabulary.end_of_text) == (271, 0)
    assert vocabulary.token_bytes()[[0, 270]].tolist() == [0, 0]


def test_its_identity_is_its_content(file):
    before = identity(HuggingFaceTokenizer(name=str(file)))
    file.write_text(file.read_text().replace("<mask>", "<MASK>"))
    assert identity(HuggingFaceTokenizer(name=str(file))) != before


def test_an_end_of_text_that_is_not_there_is_named(file, tmp_path):
    config = HuggingFaceTokenizer(name=str(file), end_of_text="<|stop|>")
    with pytest.raises(ValueError, match=r"no entry <\|stop\|> .* data.tokenizer.end_of_text="):
        prepare_vocabulary(config, Nursery(), tmp_path)


def test_what_is_no_tokenizer_is_named(tmp_path, monkeypatch):
    bad = tmp_path / "tokenizer.json"
    bad.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is not a tokenizer.json"):
        HuggingFaceTokenizer(name=str(bad)).n_entries()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"'no/such-name' is not a folder .* use tokenizer=gpt2"):
        HuggingFaceTokenizer(name="no/such-name").n_entries()


def test_bytes_are_not_guessed_where_an_id_does_not_say_them(file):
    tokenizer = Tokenizer.from_file(str(file))
    assert token_bytes(tokenizer) is not None
    tokenizer.normalizer = normalizers.Lowercase()
    assert token_bytes(tokenizer) is None
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert token_bytes(words) is None


@pytest.fixture
def made(tmp_path):
    """Folder of a trained tokenizer."""
    return prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path).folder


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "a flipped bit": lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
    "a list": lambda content: b"[]",
    "missing": lambda content: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["tokenizer.json", "meta.json"])
def test_a_damaged_file_names_itself(made, tmp_path, name, damage):
    path = made / name
    content = DAMAGES[damage](path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"{name} is damaged \(.*; delete .*trainedbpe-") as e:
        prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path)
    assert "\n" not in str(e.value)


def test_what_is_loaded_is_checked_too(made):
    vocabulary = Vocabulary(made)
    vocabulary.tokenizer()
    path = made / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b"\n")
    for load in (vocabulary.tokenizer, vocabulary.token_bytes):
        with pytest.raises(DamagedError, match=r"tokenizer.json is damaged \(its sha256"):
            load()


def test_a_meta_of_an_older_version_is_read_and_its_size_checked(made, tmp_path):
    path = made / "meta.json"
    old = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    path.write_text(json.dumps(old))
    assert prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path).n_entries == 270
    path.write_text(json.dumps({**old, "n_entries": 271}))
    with pytest.raises(DamagedError, match=r"meta.json is damaged \(it says 271 entries, and"):
        prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path)
