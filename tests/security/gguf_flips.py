"""One flipped bit at a time in the header of a gguf file, and what its readers make of it."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.init.gguf import gguf_metadata, gguf_shape
from experiments.init.gguf_header import read_gguf_header
from experiments.init.gguf_tokenizer import byte_bpe

# what no other part of the file tells of: a wrong one can't be seen without the file's hash
UNSEEN = {
    "llama.rope.freq_base": "a number that no tensor shows",
    "llama.attention.layer_norm_rms_epsilon": "a number that no tensor shows",
    "llama.context_length": "a number that no tensor shows",
    "tokenizer.ggml.tokens": "the text of an entry that no merge makes",
    "tokenizer.ggml.token_type": "the type of an entry",
    "tokenizer.ggml.merges": "a merge of other entries that exist",
    "tokenizer.ggml.pre": "another way to split text that exists",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """kind: refused | harmless | unseen | misread. what: the message, or what differs."""

    place: int
    kind: str
    what: str
    seconds: float


def read(path: Path) -> dict[str, Any]:
    """All that this project reads of the header: sizes, places, vocabulary."""
    header = read_gguf_header(path)
    read_by_bpe = {k: v for k, v in gguf_metadata(path).items() if k.startswith("tokenizer.ggml.")}
    byte_bpe(read_by_bpe)
    return {"shape": gguf_shape(path), "entries": dict(header.entries), **header.metadata}


def flips(path: Path, n: int, seed: int = 0) -> Iterator[Outcome]:
    """Of n bits of a file of one's own, each put back before the next. Raises what is no
    ValueError: that is a fault of the readers.
    """
    right = read(path)
    first = min(entry.offset for entry in right["entries"].values())
    draw = random.Random(seed)
    for place in sorted(draw.sample(range(first), n)):
        bit = 1 << draw.randrange(8)
        _flip(path, place, bit)
        start = time.process_time()
        try:
            found = read(path)
        except ValueError as error:
            kind, what = "refused", str(error)
        else:
            kind, what = _judged(right, found)
        seconds = time.process_time() - start
        _flip(path, place, bit)
        yield Outcome(place=place, kind=kind, what=what, seconds=seconds)


def _judged(right: dict[str, Any], found: dict[str, Any]) -> tuple[str, str]:
    """What differs of what is used; settings that nothing reads are harmless."""
    used = (
        "shape",
        "entries",
        *(f"tokenizer.ggml.{k}" for k in ("tokens", "token_type", "merges")),
    )
    used += ("tokenizer.ggml.pre", "tokenizer.ggml.model")
    differs = [key for key in used if found.get(key) != right.get(key)]
    if not differs:
        return "harmless", "nothing that is read differs"
    if differs == ["shape"]:
        differs = [k for k in UNSEEN if k.startswith("llama.") and found.get(k) != right.get(k)]
    names = [UNSEEN.get(key) for key in differs]
    if differs and all(names):
        return "unseen", "; ".join(map(str, names))
    return "misread", ", ".join(differs) or "shape"


def _flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (old,) = file.read(1)
        file.seek(place)
        file.write(bytes([old ^ bit]))


def summary(outcomes: list[Outcome]) -> str:
    """A line: how many of each kind, and the longest."""
    kinds = Counter(outcome.kind for outcome in outcomes)
    longest = max(outcome.seconds for outcome in outcomes)
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
    return f"{len(outcomes)} flips: {counts}; longest {longest:.1f} s"
