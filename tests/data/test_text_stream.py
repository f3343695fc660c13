"""Text that is shown while its ids come is the text of all ids."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from experiments.data.text_stream import TextStream
from experiments.data.tokenizer import train_bpe


def metaspace():
    """As SentencePiece: a text's first entry loses its blank."""
    entries = {"\u2581the": 0, "\u2581cat": 1, "s": 2, "<0xC3>": 3, "<0xA9>": 4, "\u2581": 5}
    tokenizer = Tokenizer(models.BPE(vocab=entries, merges=[], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return tokenizer


BYTES = train_bpe(["the cat sat on the mat " * 9], 265)


def pieces(tokenizer, before, ids):
    stream = TextStream(tokenizer, before)
    return [*(stream.add(i) for i in ids), stream.rest()]


@pytest.mark.parametrize("text", ["the cat", "é字\U0001f600 the", "a\n\n b", "x" * 40])
@pytest.mark.parametrize("n_before", [0, 1, 12])
def test_the_pieces_are_the_text(text, n_before):
    before = BYTES.encode("the cat sat on the mat").ids[:n_before]
    ids = BYTES.encode(text).ids
    found = pieces(BYTES, before, ids)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


def test_blanks_between_words_stay():
    tokenizer = metaspace()
    assert pieces(tokenizer, [0], [1, 2, 0]) == [" cat", "s", " the", ""]
    assert pieces(tokenizer, [0], [5, 3, 4]) == [" ", "", "é", ""]


def test_a_character_that_never_becomes_whole_is_shown_at_the_end():
    half = BYTES.encode("é").ids[:1]
    assert pieces(BYTES, [], half) == ["", "\ufffd"]
