"""Going on with a text: the next token, greedy or drawn, and the one after it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from experiments.models.sampling import Sampling
from experiments.models.transformer import Transformer


def next_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """An id, of (vocab_size,) logits. The generator is the CPU's, wherever the logits are."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probability = (logits.cpu().double() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probability.sort(descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probability = probability.index_fill(0, order[before >= sampling.top_p], 0.0)
    return int(torch.multinomial(probability, 1, generator=generator))


def generate(
    model: Transformer,
    tokens: Sequence[int],
    *,
    n_tokens: int,
    end: int | None,
    sampling: Sampling,
    seed: int = 0,
) -> Iterator[int]:
    """Ids after `tokens` (at least one), up to n_tokens of them or until `end`, which is not
    given out. Raises ValueError for a model that is not causal.
    """
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(seed)
    cache, new = model.new_cache(), list(tokens)
    for _ in range(n_tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([new], device=device), cache)[0, -1]
        token = next_token(logits, sampling, generator)
        if token == end:
            return
        yield token
        new = [token]
