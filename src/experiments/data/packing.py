"""Tokens on disk: documents joined by END_OF_TEXT, one flat file a split, memory-mapped."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from experiments.data.cache import made_once
from experiments.data.corpus import Corpus, Split
from experiments.data.tokenizer import END_OF_TEXT, token_bytes, train_bpe

FORMAT_VERSION = 1
_ENCODE_BATCH = 256  # documents handed to the tokenizer's threads at once


class PackedCorpus:
    """A tokenized corpus in a folder: tokens of each split, bytes of each token, the tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        meta = json.loads((folder / "meta.json").read_text())
        self.vocab_size: int = meta["vocab_size"]
        self.digests: dict[str, str] = meta["digests"]
        self.n_tokens: dict[str, int] = meta["n_tokens"]

    def tokens(self, split: Split) -> np.ndarray:
        """The split's tokens, (n_tokens,) uint16 or uint32, memory-mapped.

        Raises ValueError if the file does not have the length it was written with.
        """
        tokens: np.ndarray = np.load(self.folder / f"{split}.npy", mmap_mode="r")
        if len(tokens) != self.n_tokens[split]:
            raise ValueError(
                f"{self.folder / split}.npy holds {len(tokens)} tokens, not "
                f"{self.n_tokens[split]}; delete {self.folder} to make it again"
            )
        return tokens

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each token id, (vocab_size,) int64."""
        return token_bytes(Tokenizer.from_file(str(self.folder / "tokenizer.json")))


def packed_folder(corpus: Corpus, vocab_size: int, cache: Path) -> Path:
    """Where the corpus lies once tokenized; it may not exist yet."""
    assert is_dataclass(corpus)
    assert not isinstance(corpus, type)
    identity = {
        "corpus": type(corpus).__name__,
        "fields": asdict(corpus),
        "vocab_size": vocab_size,
        "version": FORMAT_VERSION,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return cache / "tokens" / f"{type(corpus).__name__.lower()}-{vocab_size}-{digest[:12]}"


def prepare(corpus: Corpus, vocab_size: int, cache: Path) -> PackedCorpus:
    """Downloads, trains the tokenizer and tokenizes, unless that was done before."""

    def make(folder: Path) -> None:
        texts = list(corpus.documents("train", cache))
        tokenizer = train_bpe(texts, vocab_size)
        tokenizer.save(str(folder / "tokenizer.json"))
        arrays = {
            "train": encode(tokenizer, texts),
            "validation": encode(tokenizer, corpus.documents("validation", cache)),
        }
        for split, array in arrays.items():
            np.save(folder / f"{split}.npy", array)
        meta = {
            "vocab_size": vocab_size,
            "n_tokens": {split: len(array) for split, array in arrays.items()},
            "digests": {s: hashlib.sha256(a.tobytes()).hexdigest() for s, a in arrays.items()},
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")

    return PackedCorpus(made_once(packed_folder(corpus, vocab_size, cache), make))


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """The texts' tokens, an END_OF_TEXT after each; uint16 where the vocabulary fits it."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    end = np.array([tokenizer.token_to_id(END_OF_TEXT)], dtype=dtype)
    parts: list[np.ndarray] = []
    pending: list[str] = []

    def flush() -> None:
        for encoding in tokenizer.encode_batch_fast(pending):
            parts.extend((np.array(encoding.ids, dtype=dtype), end))
        pending.clear()

    for text in texts:
        pending.append(text)
        if len(pending) == _ENCODE_BATCH:
            flush()
    flush()
    return np.concatenate(parts)
