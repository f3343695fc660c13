"""Vocabulary inside a gguf file as a tokenizer: a byte-level BPE, its entries and merges."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from experiments.config import constraints
from experiments.config.constraints import shown
from experiments.data.corpus import Corpus
from experiments.data.tokenizer import end_of_text, vocabulary_size
from experiments.init.gguf import gguf_metadata
from experiments.init.reading import named

_CONTROL = 3  # llama.cpp's type of entries that no text is made of
_KINDS = frozenset(range(1, 7))  # normal, unknown, control, user defined, unused, byte
_KEYS = ("model", "pre", "tokens", "token_type", "merges")


@dataclass(frozen=True, kw_only=True)
class GGUFTokenizer:
    """Vocabulary of a gguf file. Its identity is its entries, merges and split of text."""

    path: constraints.Path
    trained = False

    def n_entries(self) -> int:
        return vocabulary_size(self._tokenizer())

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        tokenizer = self._tokenizer()
        with named(Path(self.path)):
            return tokenizer, end_of_text(tokenizer)

    def identity(self) -> dict[str, Any]:
        """Hash of what it is made of."""
        metadata = gguf_metadata(Path(self.path))
        parts = [metadata.get(f"tokenizer.ggml.{key}") for key in _KEYS]
        return {"sha256": hashlib.sha256(json.dumps(parts).encode()).hexdigest()}

    def _tokenizer(self) -> Tokenizer:
        path = Path(self.path)
        with named(path):
            return byte_bpe(gguf_metadata(path))


def byte_bpe(metadata: Mapping[str, Any]) -> Tokenizer:
    """Tokenizer that a gguf file's settings describe.

    Raises ValueError for a vocabulary that is no byte-level BPE, or splits text in a way that is
    not known here.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in _SPLITS:
        raise ValueError(
            f"the gguf's vocabulary is of kind {kind!r} and splits text as {split!r}; only gpt2 "
            f"with {' or '.join(_SPLITS)} is read: put the model's tokenizer.json beside it"
        )
    entries = _list(metadata, "tokens", str)
    kinds = _list(metadata, "token_type", int)
    merges = [tuple(pair.split(" ")) for pair in _list(metadata, "merges", str)]
    vocabulary = {entry: i for i, entry in enumerate(entries)}
    unknown = [m for m in merges if len(m) != 2 or not {*m, "".join(m)} <= vocabulary.keys()]
    if unknown or len(vocabulary) < len(entries):
        what = f"merges {shown(unknown[0])}" if unknown else "has an entry twice"
        raise ValueError(f"the gguf's vocabulary is damaged: it {what}; get the file again")
    if len(kinds) != len(entries) or not set(kinds) <= _KINDS:
        raise ValueError("the gguf's vocabulary has entries of unknown types; get the file again")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _SPLITS[split]()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(e, special=True) for e, k in zip(entries, kinds, strict=True) if k == _CONTROL]
    )
    return tokenizer


def _list(metadata: Mapping[str, Any], key: str, of: type) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not all(type(value) is of for value in found):
        raise ValueError(f"tokenizer.ggml.{key} of the gguf is no list of {of.__name__}")
    return found


def _bytes() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _digits_then_bytes() -> pre_tokenizers.PreTokenizer:
    """Each digit alone, then GPT-2's split; as SmolLM2's own tokenizer.json has it."""
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _bytes()])


_SPLITS = {"gpt-2": _bytes, "smollm": _digits_then_bytes}
