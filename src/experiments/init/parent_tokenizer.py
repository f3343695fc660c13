"""Tokenizer of a finished run, whichever text a run that starts from its weights is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from experiments.config.constraints import Sha256
from experiments.config.reading import build
from experiments.data.corpus import Corpus
from experiments.data.folders import identity
from experiments.data.vocabulary import prepare_vocabulary


@dataclass(frozen=True, kw_only=True)
class ParentTokenizer:
    """Tokenizer that `tokenizer` makes of `corpus`, each a config node with its `_target_`.

    sha256: of its tokenizer.json, from the finished run's record; None if that has none.
    """

    tokenizer: Any
    corpus: Any
    sha256: Sha256 | None = None
    trained = False  # on the text of a run that uses it

    def __post_init__(self) -> None:
        for name, needs in (("tokenizer", ("n_entries", "make")), ("corpus", ("documents",))):
            part = getattr(self, name)
            if isinstance(part, Mapping):
                object.__setattr__(self, name, build(part, name, needs))

    def n_entries(self) -> int:
        return self.tokenizer.n_entries()

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        """Raises ValueError if it is no longer the one that the finished run was trained with."""
        vocabulary = prepare_vocabulary(self.tokenizer, self.corpus, cache)
        if self.sha256 not in (None, vocabulary.sha256):
            raise ValueError(
                "data.tokenizer: the tokenizer that the run of init names is not the one that it "
                f"was trained with; restore its text, or give paths.cache=... where "
                f"{vocabulary.folder.name} is as it was"
            )
        tokenizer = Tokenizer.from_str(vocabulary.read())
        end = tokenizer.id_to_token(vocabulary.end_of_text)
        assert end is not None
        return tokenizer, end

    def identity(self) -> dict[str, Any]:
        """File's hash, or what makes it where that is not recorded."""
        if self.sha256 is not None:
            return {"sha256": self.sha256}
        of = identity(self.corpus) if self.tokenizer.trained else None
        return {"tokenizer": identity(self.tokenizer), "corpus": of}
