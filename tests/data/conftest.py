"""Tokens and vocabularies that the tests of data make for themselves."""

from pathlib import Path

import numpy as np
import pytest

from experiments.data.packed import PackedText, Shard, token_dtype, write_index
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary
from experiments.system.disk import file_sha256
from tests.conftest import Nursery


@pytest.fixture
def vocabulary(tmp_path: Path) -> Vocabulary:
    return prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path / "vocabulary")


def packed(folder: Path, *shards: np.ndarray, vocab_size: int = 2000) -> PackedText:
    """A packed folder of exactly these tokens, a shard an array."""
    folder.mkdir(parents=True)
    written = []
    for i, tokens in enumerate(shards):
        path = folder / f"{i:05d}.bin"
        tokens.astype(token_dtype(vocab_size)).tofile(path)
        written.append(
            Shard(
                file=path.name,
                n_tokens=len(tokens),
                n_documents=1,
                n_bytes=len(tokens),
                sha256=file_sha256(path),
            )
        )
    write_index(folder, vocab_size, written)
    return PackedText(folder)
