"""Loss on held-out text: nats per token, perplexity, bits per byte, and how experts are used."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.config.schema import EvaluationRule
from experiments.data.batches import IGNORED, Batch
from experiments.data.packed import PackedText
from experiments.data.vocabulary import Vocabulary
from experiments.data.windows import ScoredWindows
from experiments.models.ffn._base import FFN
from experiments.models.transformer import Transformer
from experiments.models.usage import ExpertUsage, UsageSummary
from experiments.system.text_table import aligned
from experiments.training.scored_together import Scorers


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """loss in nats per token; n_bytes of UTF-8 that the n_tokens scored stand for."""

    loss: float
    n_tokens: int
    n_bytes: float
    usage: float | None
    unevenness: float | None
    causal: bool

    @property
    def perplexity(self) -> float:
        """exp(loss), per token; infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Loss per byte in bits: independent of the vocabulary."""
        return self.loss * self.n_tokens / self.n_bytes / math.log(2)


def evaluate(
    model: Transformer,
    batches: Iterable[Batch],
    token_bytes: np.ndarray,
    device: torch.device,
    each: Callable[[int, Tensor, Tensor], object] = lambda index, targets, losses: None,
) -> Evaluation:
    """Scores every target that is not IGNORED. The model is left in the mode it came in.

    Products are float32 on every device, however the model was trained: autocast is off, and the
    trunk is as it is written. So a run's number is what its folder gives, and what a start keeps.
    token_bytes: of each id, (vocab_size,). each: is given the number of every batch, its targets
    and their losses, (sequences, targets) nats, 0 where a target is IGNORED. The sums are float64,
    so the result does not depend on how windows are batched (except through expert choice, whose
    routing does). Where processes have columns of the tables, all call it at once, and each scores
    its share of every batch (scored_together.py).
    """
    was_training = model.training
    model.eval()
    total, n_tokens, n_bytes = 0.0, 0, 0.0
    scorers = Scorers(model)

    def score(inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs.to(device))
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.to(device).flatten(), reduction="none"
        )  # 0 where a target is ignored
        return loss.view(targets.shape)

    exact = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), exact, metered(model.ffn_layers()) as meters:
        for index, (inputs, targets, _) in enumerate(batches):
            loss = scorers.losses(score, inputs, targets)
            each(index, targets, loss)
            scored = targets[targets != IGNORED]
            total += float(loss.double().sum())
            n_tokens += scored.numel()
            n_bytes += float(token_bytes[scored.numpy()].sum())
        scorers.add_up(meters, device)
    model.train(was_training)
    summaries = [meter.summary() for meter in meters]
    return Evaluation(
        loss=total / n_tokens,
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        usage=_mean(summaries, "usage"),
        unevenness=_mean(summaries, "unevenness"),
        causal=all(layer.causal for layer in model.ffn_layers()),
    )


def score_sets(
    model: Transformer,
    sets: Mapping[str, PackedText],
    vocabulary: Vocabulary,
    rule: EvaluationRule,
    *,
    seq_len: int,
    batch_size: int,
    device: torch.device,
    started: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, Any]]:
    """Results of each set, as a record keeps them: the numbers, the rule they came by, the text.

    The rule is that of ScoredWindows; one that differs from the usual is part of the name.
    """
    results = {}
    for name, tokens in sets.items():
        started(name)
        windows = ScoredWindows(
            tokens,
            seq_len=seq_len,
            batch_size=rule.batch_size or batch_size,
            stride=rule.stride,
            max_tokens=rule.max_tokens,
        )
        result = evaluate(model, windows, bytes_of_tokens(tokens, vocabulary), device)
        results[name + rule_suffix(rule)] = {
            "loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
            "bytes_per_token": result.n_bytes / result.n_tokens,
            "n_tokens": result.n_tokens,
            "causal": result.causal,
            "seq_len": seq_len,
            "stride": rule.stride or seq_len,
            "max_tokens": rule.max_tokens,
            "batch_size": rule.batch_size or batch_size,
            "tokens_digest": tokens.digest,
        }
    return results


def rule_suffix(rule: EvaluationRule) -> str:
    """Suffix of a set's name for a rule that is not the default: `@stride=64`."""
    given = [f"{name}={value}" for name, value in asdict(rule).items() if value is not None]
    return "@" + ",".join(given) if given else ""


def bytes_of_tokens(tokens: PackedText, vocabulary: Vocabulary) -> np.ndarray:
    """UTF-8 bytes that each id stands for, (vocab_size,) float64.

    Exact for a byte-level vocabulary; for another, every id gets the mean of the whole split.
    """
    exact = vocabulary.token_bytes()
    if exact is not None:
        return exact
    return np.full(vocabulary.n_entries, tokens.n_bytes / tokens.n_tokens)


def results_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """A line a set of text; empty without one. Marked: models whose routing sees later tokens, so
    that the number depends on the batch size and is not a perplexity in the strict sense.
    """
    evaluations = {name: r for name, r in evaluations.items() if "perplexity" in r and "loss" in r}
    if not evaluations:
        return ""
    rows = [("set", "perplexity", "nats/token", "bits/byte", "bytes/token", "tokens", "windows")]
    for name, r in evaluations.items():
        fixed = r["stride"] == r["seq_len"]
        rows.append(
            (
                name,
                f"{r['perplexity']:.2f}" + ("" if r["causal"] else " *"),
                f"{r['loss']:.4f}",
                f"{r['bits_per_byte']:.4f}",
                f"{r['bytes_per_token']:.2f}",
                str(r["n_tokens"]),
                f"fixed {r['seq_len']}" if fixed else f"sliding {r['seq_len']}/{r['stride']}",
            )
        )
    lines = aligned(rows)
    if not all(r["causal"] for r in evaluations.values()):
        sizes = sorted({r["batch_size"] for r in evaluations.values() if not r["causal"]})
        lines.append(
            "* expert choice routes by whole batches and sees later tokens: not a strict "
            f"perplexity, and of batches of {', '.join(map(str, sizes))} sequences only"
        )
    return "\n".join(lines)


@contextmanager
def metered(layers: Iterable[FFN]) -> Iterator[list[ExpertUsage]]:
    """Meters attached to every layer that has experts, for the duration of the block."""
    with_experts = [layer for layer in layers if layer.n_experts]
    for layer in with_experts:
        layer.usage = ExpertUsage(layer.n_experts)
    try:
        yield [layer.usage for layer in with_experts if layer.usage is not None]
    finally:
        for layer in with_experts:
            layer.usage = None


def _mean(summaries: list[UsageSummary], name: str) -> float | None:
    return float(np.mean([getattr(s, name) for s in summaries])) if summaries else None
