"""A local task's numbers: accuracies over the choices, bits per byte of the right answers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.tasks.items import Item, LocalTask
from experiments.tasks.scoring import EncodedPair, Encoder, Scored, Scorer, check_lengths, n_cut

KEY = "tasks/"  # of a record's evaluations; sets of text have none
RULE = 1  # of what is below; a record's number by another rule is computed again


@dataclass(frozen=True, kw_only=True)
class EncodedTask:
    """A task in a run's ids: a pair for each choice of each item, in order."""

    task: LocalTask
    pairs: tuple[EncodedPair, ...]


def encode_task(task: LocalTask, encoder: Encoder, seq_len: int) -> EncodedTask:
    """Raises ValueError, naming the line, for what the vocabulary or the window can't score."""
    pairs: list[EncodedPair] = []
    for item in task.items:
        try:
            encoded = [encoder.encode_pair(*pair) for pair in item.pairs]
            check_lengths(encoded, seq_len)
        except ValueError as error:
            raise ValueError(f"{task.path}, line {item.line}: {error}") from None
        pairs += encoded
    return EncodedTask(task=task, pairs=tuple(pairs))


def is_scored(task: LocalTask, evaluations: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a record has this file's results already, by this rule."""
    result = evaluations.get(KEY + task.name, {})
    return result.get("digest") == task.digest and result.get("rule") == RULE


def score_task(encoded: EncodedTask, scorer: Scorer) -> dict[str, Any]:
    """Results of one task, as a record keeps them."""
    items, pairs = encoded.task.items, encoded.pairs
    scored = scorer.loglikelihoods(pairs, f"scoring {encoded.task.name}")
    return {
        **numbers(items, scored),
        "n_cut": n_cut(pairs, scorer.seq_len),
        "seq_len": scorer.seq_len,
        "digest": encoded.task.digest,
        "rule": RULE,
    }


def numbers(items: Sequence[Item], scored: Sequence[Scored]) -> dict[str, Any]:
    """Numbers of items, of whose choices `scored` has one result each, in order.

    acc, acc_norm, acc_bytes: of the items with choices, the share whose right one has the highest
    log-probability: as it is, a character, a byte of UTF-8. Of equal ones the first counts. They
    are lm-evaluation-harness' metrics of those names (0.4.13, lm_eval/api/task.py), and
    acc_stderr is its standard error. None without choices.
    greedy: the share of items whose right answer is what greedy decoding produces.
    bits_per_byte: of all right answers together, without their contexts.
    """
    it = iter(scored)
    results = [[next(it) for _ in item.choices] for item in items]
    rights = [result[item.right] for item, result in zip(items, results, strict=True)]
    n_bytes = sum(_scored_bytes(item) for item in items)
    nats = -sum(right.logprob for right in rights)
    hits: dict[str, list[bool]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for item, result in zip(items, results, strict=True):
        if item.is_choice:
            logprobs = np.array([one.logprob for one in result])
            lengths = {
                "acc": np.ones(len(result)),
                "acc_norm": np.array([len(choice) for choice in item.choices]),
                "acc_bytes": np.array([len(choice.encode()) for choice in item.choices]),
            }
            for name, length in lengths.items():
                hits[name].append(int(np.argmax(logprobs / length)) == item.right)
    return {
        **{name: _mean(found) for name, found in hits.items()},
        **{f"{name}_stderr": _stderr(found) for name, found in hits.items()},
        "greedy": _mean([right.greedy for right in rights]),
        "bits_per_byte": nats / n_bytes / math.log(2),
        "n_items": len(items),
        "n_choice_items": len(hits["acc"]),
        "n_bytes": n_bytes,
    }


def _scored_bytes(item: Item) -> int:
    """UTF-8 bytes of the right answer and of the white space before it, which is scored too."""
    spaces = item.context[len(item.context.rstrip()) :]
    return len((spaces + item.choices[item.right]).encode())


def _mean(hits: Iterable[bool]) -> float | None:
    found = list(hits)
    return float(np.mean(found)) if found else None


def _stderr(hits: Sequence[bool]) -> float | None:
    """Standard error of a mean, by the sample's own variance; None for fewer than two."""
    return float(np.std(hits, ddof=1) / math.sqrt(len(hits))) if len(hits) > 1 else None
