"""A tokenizer on disk: made once for a config and what it was trained on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from experiments.data.checked import read_checked, write_checked
from experiments.data.corpus import Corpus
from experiments.data.folders import vocabulary_folder
from experiments.data.tokenizer import TokenizerConfig, token_bytes, vocabulary_size
from experiments.records.files import DamagedError
from experiments.system.disk import write_text
from experiments.system.made_once import made_once


@dataclass(frozen=True)
class Vocabulary:
    """Folder of a tokenizer: tokenizer.json and meta.json.

    Raises DamagedError, naming the file, when one that is not as it was written is read.
    """

    folder: Path

    @cached_property
    def _meta(self) -> dict[str, Any]:
        types = {"n_entries": int, "end_of_text": int, "sha256": str}
        return read_checked(self.folder / "meta.json", types, self.remedy)

    @property
    def remedy(self) -> str:
        return f"delete {self.folder}, and the same command makes it again"

    @property
    def n_entries(self) -> int:
        """Largest id and one."""
        return self._meta["n_entries"]

    @property
    def end_of_text(self) -> int:
        """Id that ends every document."""
        return self._meta["end_of_text"]

    @property
    def sha256(self) -> str:
        """Hash of tokenizer.json as it was loaded, for nothing else is."""
        return self._meta["sha256"]

    def tokenizer(self) -> Tokenizer:
        """Tokenizer; entries with a special meaning are plain text to it.

        So a document that spells out the end of text can't end itself.
        """
        tokenizer = Tokenizer.from_str(self.read())
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def token_bytes(self) -> np.ndarray | None:
        """UTF-8 bytes of each id, (n_entries,) float64; None if an id does not say."""
        return token_bytes(Tokenizer.from_str(self.read()))

    def read(self) -> str:
        """Text of tokenizer.json, checked."""
        path = self.folder / "tokenizer.json"
        try:
            content = path.read_bytes()
        except OSError as error:
            why = f"it can't be read: {error.strerror}"
            raise DamagedError(path, why, self.remedy) from None
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise DamagedError(path, "its sha256 is not the one in meta.json", self.remedy)
        return content.decode()


def prepare_vocabulary(config: TokenizerConfig, corpus: Corpus, cache: Path) -> Vocabulary:
    """Trains or fetches the tokenizer, unless that was done before.

    Raises ValueError if it has not the size that the config says, DamagedError if its files are not
    as they were written.
    """

    def make(folder: Path) -> None:
        tokenizer, end = config.make(corpus, cache)
        size = vocabulary_size(tokenizer)
        if size != config.n_entries():
            raise ValueError(
                f"data.tokenizer has ids up to {size - 1}, but vocab_size={config.n_entries()}; "
                f"set data.tokenizer.vocab_size={size}"
            )
        file = folder / "tokenizer.json"
        write_text(file, tokenizer.to_str())
        meta = {
            "n_entries": size,
            "end_of_text": tokenizer.token_to_id(end),
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        write_checked(folder / "meta.json", meta)

    vocabulary = Vocabulary(made_once(vocabulary_folder(config, corpus, cache), make))
    vocabulary.read()
    if vocabulary.n_entries != config.n_entries():
        why = f"it says {vocabulary.n_entries} entries, and the config {config.n_entries()}"
        raise DamagedError(vocabulary.folder / "meta.json", why, vocabulary.remedy)
    return vocabulary
