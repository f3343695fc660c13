"""Loss on held-out text: nats per token, perplexity, bits per byte, and how experts are used."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from experiments.data.module import Batch
from experiments.models.ffn._base import FFN
from experiments.models.transformer import Transformer
from experiments.models.usage import ExpertUsage, UsageSummary


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """loss in nats per token; n_bytes of UTF-8 that the predicted tokens stand for."""

    loss: float
    n_tokens: int
    n_bytes: int
    usage: float | None
    unevenness: float | None
    causal: bool

    @property
    def perplexity(self) -> float:
        """exp(loss), per token; infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """The loss per byte in bits: independent of the vocabulary."""
        return self.loss * self.n_tokens / self.n_bytes / math.log(2)


def evaluate(
    model: Transformer, batches: Iterable[Batch], token_bytes: np.ndarray, device: torch.device
) -> Evaluation:
    """Scores every target of every batch once. The model is left in the mode it came in.

    The sums are float64, so the result does not depend on how windows are batched (except
    through expert choice, whose routing does).
    """
    was_training = model.training
    model.eval()
    total, n_tokens, n_bytes = 0.0, 0, 0
    with torch.no_grad(), metered(model.ffn_layers()) as meters:
        for inputs, targets in batches:
            logits = model(inputs.to(device))
            loss = F.cross_entropy(
                logits.flatten(0, 1).float(), targets.to(device).flatten(), reduction="none"
            )
            total += float(loss.double().sum())
            n_tokens += targets.numel()
            n_bytes += int(token_bytes[targets.numpy()].sum())
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
