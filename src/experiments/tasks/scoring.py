"""Log-probabilities of continuations after contexts, by the rules of lm-evaluation-harness.

The rules are those of its models' base class and of its `hf` model (0.4.13, lm_eval/api/model.py,
TemplateLM; lm_eval/models/huggingface.py, _loglikelihood_tokens), written again.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tqdm import tqdm

from experiments.data.batches import IGNORED
from experiments.data.vocabulary import Vocabulary
from experiments.data.windows import ScoredWindows
from experiments.models.generation import next_token
from experiments.models.sampling import Sampling
from experiments.models.transformer import Transformer
from experiments.training.evaluation import evaluate

_GREEDY = Sampling()
_MIN_SECONDS = 2.0  # shorter work shows no bar


class EncodedPair(NamedTuple):
    """Ids of a context, at least one, and of its continuation, at least one."""

    context: list[int]
    continuation: list[int]


class Scored(NamedTuple):
    """A continuation's log-probability in nats, and whether greedy decoding would produce it."""

    logprob: float
    greedy: bool


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Text to ids. end_of_text ends every document in training, so it is what a text without a
    context comes after.
    """

    tokenizer: Tokenizer
    end_of_text: int

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Encoder":
        return cls(tokenizer=vocabulary.tokenizer(), end_of_text=vocabulary.end_of_text)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; entries with a special meaning are plain text, and none is added."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def encode_pair(self, context: str, continuation: str) -> EncodedPair:
        """White space at the context's end is moved to the continuation; both are encoded as one
        text, of which the context has as many ids as it has alone. An empty context is the end
        of another document.

        Raises ValueError where the continuation has no id of its own.
        """
        kept = context.rstrip()
        alone = self.encode(kept) if kept else []
        scored = self.encode(context + continuation)[len(alone) :]
        if not scored:
            raise ValueError(
                f"{continuation[:40]!r} has no token of its own after {context[-40:]!r}: the "
                "vocabulary joins them; begin it with a space"
            )
        return EncodedPair(alone or [self.end_of_text], scored)


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A causal model, in evaluation mode, with the window and the batch that it is read in.

    Nothing that a pair gets depends on the pairs beside it: they are padded on the right, which a
    causal model can't see.
    """

    model: Transformer
    seq_len: int
    batch_size: int
    device: torch.device

    def loglikelihoods(
        self, pairs: Sequence[EncodedPair], label: str = "scoring", quiet: bool = False
    ) -> list[Scored]:
        """One result a pair, in their order. A context that the window has no room for is cut
        from the left.

        Raises ValueError for a continuation longer than the window.
        """
        check_lengths(pairs, self.seq_len)
        longest_first = sorted(range(len(pairs)), key=lambda i: -sum(map(len, pairs[i])))
        results: dict[int, Scored] = {}
        with _bar(len(pairs), label, quiet) as bar, torch.no_grad():
            for start in range(0, len(pairs), self.batch_size):
                places = longest_first[start : start + self.batch_size]
                batch = self._batch([pairs[i] for i in places])
                results.update(zip(places, batch, strict=True))
                bar.update(len(places))
        return [results[i] for i in range(len(pairs))]

    def _batch(self, pairs: Sequence[EncodedPair]) -> list[Scored]:
        windows = [(c + a)[-(self.seq_len + 1) :] for c, a in pairs]
        n = max(map(len, windows)) - 1
        inputs = torch.zeros(len(pairs), n, dtype=torch.int64)
        targets = torch.full((len(pairs), n), IGNORED)
        for row, (ids, (_, continuation)) in enumerate(zip(windows, pairs, strict=True)):
            end, n_scored = len(ids) - 1, len(continuation)
            inputs[row, :end] = torch.tensor(ids[:-1])
            targets[row, end - n_scored : end] = torch.tensor(continuation)
        scored = targets != IGNORED
        logits = self.model(inputs.to(self.device))[scored.to(self.device)].float()
        wanted = targets[scored].to(self.device)
        losses = F.cross_entropy(logits, wanted, reduction="none").double().cpu()
        hits = (logits.argmax(-1) == wanted).cpu()
        sizes = scored.sum(1).tolist()
        return [
            Scored(-float(loss.sum()), bool(hit.all()))
            for loss, hit in zip(losses.split(sizes), hits.split(sizes), strict=True)
        ]

    def rolling(self, ids: Sequence[int], end_of_text: int, stride: int | None = None) -> float:
        """Log-probability of a whole document, in nats: all its ids, after the end of another.

        In the windows of experiments.evaluate (data/windows.py): fixed ones, or `stride`. Thus the
        last window of fixed ones is a short one; lm-evaluation-harness' own rule fills it up.
        """
        if not ids:
            return 0.0
        windows = ScoredWindows(
            np.array([end_of_text, *ids]),
            seq_len=self.seq_len,
            batch_size=self.batch_size,
            stride=stride,
        )
        n_entries = max(end_of_text, *ids) + 1
        result = evaluate(self.model, windows, np.ones(n_entries), self.device)
        return -result.loss * result.n_tokens

    def go_on(
        self,
        ids: Sequence[int],
        n_new: int,
        done: Callable[[list[int]], bool],
        sampling: Sampling = _GREEDY,
        seed: int = 0,
    ) -> list[int]:
        """Up to n_new ids after the given ones; ends where done(new ids).

        While they fit the window, each is read once (models/cache.py). Then the window moves on,
        and every step reads the last seq_len of them: models/generation.py has no window.
        """
        row, new = list(ids[-self.seq_len :]), list[int]()
        cache, unread = self.model.new_cache(), row
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            while len(new) < n_new and not (new and done(new)):
                fits = len(row) <= self.seq_len
                window = torch.tensor([unread if fits else row[-self.seq_len :]])
                logits = self.model(window.to(self.device), cache if fits else None)
                unread = [next_token(logits[0, -1], sampling, generator)]
                new += unread
                row = row + unread
        return new


def check_lengths(pairs: Sequence[EncodedPair], seq_len: int) -> None:
    """Raises ValueError for a continuation that one window can't hold."""
    longest = max((len(pair.continuation) for pair in pairs), default=0)
    if longest > seq_len:
        raise ValueError(
            f"a continuation has {longest} tokens, more than the model's window of {seq_len}; "
            "shorten it, or score such a text as a set (eval=[...], docs/data.md)"
        )


def n_cut(pairs: Sequence[EncodedPair], seq_len: int) -> int:
    """Number of pairs whose context the window has no room for."""
    return sum(len(c) + len(a) > seq_len + 1 for c, a in pairs)


def _bar(total: int, label: str, quiet: bool) -> "tqdm[None]":
    hidden = quiet or not sys.stderr.isatty()
    return tqdm(total=total, desc=label, delay=_MIN_SECONDS, disable=hidden, leave=False)
