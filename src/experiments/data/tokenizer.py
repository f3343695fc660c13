"""A byte-level BPE trained on the training split; deterministic for the same text."""

from collections.abc import Iterable
from typing import cast

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
_MIN_VOCABULARY = 257  # every byte, and the end of text


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of exactly vocab_size entries, END_OF_TEXT being id 0.

    Raises ValueError for a vocabulary smaller than the bytes, or larger than the text supports.
    """
    if vocab_size < _MIN_VOCABULARY:
        raise ValueError(
            f"vocab_size={vocab_size} must be at least {_MIN_VOCABULARY}: all bytes, end of text"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
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


def token_bytes(tokenizer: Tokenizer) -> np.ndarray:
    """UTF-8 bytes that each token id stands for, (vocab_size,) int64; END_OF_TEXT stands for none.

    In a byte-level vocabulary one character of an entry is one byte.
    """
    size = tokenizer.get_vocab_size()
    entries = [cast(str, tokenizer.id_to_token(i)) for i in range(size)]
    return np.array([0 if e == END_OF_TEXT else len(e) for e in entries], dtype=np.int64)
