"""Ids that come one by one, as text that is shown while they come."""

from collections.abc import Sequence

from tokenizers import Tokenizer

_TORN = "\ufffd"  # what a decoder gives for a part of a character


class TextStream:
    """Text of ids after others, in whole characters: those that end within one wait for the rest.

    Only the last few ids are decoded again, with those before them, since an entry may look
    different at the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._tokenizer, self._ids = tokenizer, list(before)
        self._start, self._shown = max(0, len(before) - 8), len(before)

    def add(self, token: int) -> str:
        """Text that this id adds; empty where a character is not whole yet."""
        self._ids.append(token)
        text = self._new()
        return "" if text.endswith(_TORN) else self._taken(text)

    def rest(self) -> str:
        """Text that was held back."""
        return self._taken(self._new())

    def _new(self) -> str:
        before = self._decode(self._ids[self._start : self._shown])
        return self._decode(self._ids[self._start :])[len(before) :]

    def _taken(self, text: str) -> str:
        self._start, self._shown = self._shown, len(self._ids)
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)
