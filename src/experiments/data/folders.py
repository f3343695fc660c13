"""Where made data is in the cache: folders that are named by all that their content depends on."""

import hashlib
import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.config.fields import settings
from experiments.data.corpus import Corpus

_OF_TOKENS = 2  # the format of a folder of tokens
_OF_VOCABULARY = 1


class Tokenizing(Protocol):
    """A tokenizer's config (data.tokenizer.TokenizerConfig), as far as folders depend on it.

    trained: whether the training text decides what it becomes.
    """

    trained: bool


def identity(part: Any) -> dict[str, Any]:
    """Settings that determine a corpus's text or a tokenizer's ids, as plain values."""
    assert is_dataclass(part)
    assert not isinstance(part, type)
    own = getattr(part, "identity", None)
    return {"kind": type(part).__name__, **(own() if own is not None else settings(part))}


def digest(values: Any) -> str:
    """12 hex digits that stand for plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def vocabulary_key(config: Tokenizing, corpus: Corpus) -> str:
    """12 hex digits for all that the ids depend on; needs no text."""
    trained_on = identity(corpus) if config.trained else None
    return digest({"tokenizer": identity(config), "corpus": trained_on, "version": _OF_VOCABULARY})


def vocabulary_folder(config: Tokenizing, corpus: Corpus, cache: Path) -> Path:
    """Tokenizer's folder; it may not exist yet."""
    name = f"{type(config).__name__.lower()}-{vocabulary_key(config, corpus)}"
    return cache / "tokenizers" / name


def packed_folder(
    corpus: Corpus,
    split: str,
    tokenizer: Tokenizing,
    trained_on: Corpus,
    cache: Path,
    max_tokens: int | None = None,
) -> Path:
    """Folder of a split's tokens; it may not exist yet. Reads no text.

    trained_on: the corpus whose training split a trained tokenizer has seen.
    """
    key = digest(
        {
            "corpus": identity(corpus),
            "split": split,
            "vocabulary": vocabulary_key(tokenizer, trained_on),
            "max_tokens": max_tokens,
            "version": _OF_TOKENS,
        }
    )
    return cache / "tokens" / f"{type(corpus).__name__.lower()}-{split.replace('/', '-')}-{key}"
