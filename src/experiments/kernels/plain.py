"""Kernels as an export has them: torch alone, differentiated by torch.

The functions that layers import from ops.py and grouped.py, by their names and signatures; in an
export a layer's source has them from here (interchange/sources.py). Gathered rows are held a block
of tokens at a time. Suffixes as in interface.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.kernels.product_keys import ProductKeyParts, both_sets, scores_of_halves

Indices = Tensor  # of rows, (T, J)
_BLOCK = 2**24  # numbers of gathered rows that are held at once


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One way to read tables, whatever the name."""

    kernel: str = "plain"

    def retrieved(self, idx: Tensor, table: Tensor) -> Tensor:
        """idx: nothing is sorted beforehand."""
        return idx


PLAIN = Execution()


def gather_dot(x: Tensor, table: Tensor, idx: Tensor, execution: Execution = PLAIN) -> Tensor:
    """(T, D), (N, D), (T, J) to (T, J): x_t . table[idx_tj]."""
    x = _wide(x, table)
    blocks = _blocks(idx, table)
    parts = [torch.einsum("td,tjd->tj", x[b], table[idx[b]].to(x.dtype)) for b in blocks]
    return torch.cat(parts) if parts else x.new_zeros(idx.shape)


def gather_sum(table: Tensor, idx: Tensor, weights: Tensor, execution: Execution = PLAIN) -> Tensor:
    """(N, D), (T, J), (T, J) to (T, D): sum_j weights_tj table[idx_tj]."""
    weights = _wide(weights, table)
    blocks = _blocks(idx, table)
    parts = [torch.einsum("tj,tjd->td", weights[b], table[idx[b]].to(weights)) for b in blocks]
    return torch.cat(parts) if parts else weights.new_zeros(0, table.shape[1])


def product_key_topk(
    queries: Tensor,
    sub_keys: Tensor,
    top_k: int,
    execution: Execution = PLAIN,
    n_first: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Best top_k product keys of each query: (T, H, K) scores, best first, and expert indices.

    Arguments as in ops.py. The best of each half, then of their pairs: He 2024 (arXiv:2407.04153),
    Eq. 4-5.
    """
    queries = _wide(queries, sub_keys).unflatten(-1, (2, -1))
    keys, n_first = both_sets(sub_keys, n_first)
    n_second = keys.shape[1] - n_first
    halves = scores_of_halves(queries, keys.to(queries.dtype), n_first, bias)
    first, second = (scores.topk(min(top_k, scores.shape[-1]), dim=-1) for scores in halves)
    sums = (first.values.unsqueeze(-1) + second.values.unsqueeze(-2)).flatten(-2)
    pairs = (first.indices.unsqueeze(-1) * n_second + second.indices.unsqueeze(-2)).flatten(-2)
    best = sums.topk(top_k, dim=-1)
    return best.values, pairs.gather(-1, best.indices)


def grouped_matmul(x: Tensor, weights: Tensor, ends: Tensor, kernel: str = "plain") -> Tensor:
    """(T, D) x, (E, D, F) weights to (T, F): rows of x up to ends[e] times weights[e]."""
    bounds = zip(pairwise([0, *ends.tolist()]), weights.unbind(), strict=True)
    parts = [x[a:b] @ w for (a, b), w in bounds if a < b]
    return torch.cat(parts) if parts else x.new_zeros(0, weights.shape[2])


def why_not_linear(linear: nn.Module) -> str | None:
    """An export is computed as it is written."""
    return "an export has no fused form"


def find_eps(norm: nn.RMSNorm) -> float:
    """As mlp_half."""
    raise RuntimeError("an export has no fused form")


class AttentionShape:
    """As kernels/trunk.py has it, which an export has no use for."""

    def __init__(self, **numbers: float) -> None:
        raise RuntimeError("an export has no fused form")


def attention_half(
    x: Tensor,
    norm: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    angles: tuple[Tensor, Tensor],
    first: Tensor | None,
    shape: AttentionShape,
) -> Tensor:
    """As mlp_half."""
    raise RuntimeError("an export has no fused form")


def why_not_mlp(linears: tuple[nn.Module | None, ...], activation: str) -> str | None:
    """An export is computed as it is written."""
    return "an export has no fused form"


def mlp_half(
    x: Tensor,
    norm: nn.RMSNorm,
    weights: tuple[Tensor, Tensor | None, Tensor],
    activation: str,
    times: float,
) -> Tensor:
    """As kernels/trunk.py has it, which an export has no use for."""
    raise RuntimeError("an export has no fused form")


@dataclass(frozen=True, kw_only=True)
class Routing:
    """As kernels/mixture.py has it, like those below."""

    experts_choose: bool
    softmax: bool
    n_chosen: int
    bias: Tensor


class Experts(NamedTuple):
    """Weights of a mixture."""

    router: Tensor
    w_in: Tensor
    w_gate: Tensor | None
    w_out: Tensor


class Mixed(NamedTuple):
    """A mixture's half-block and its choices."""

    y: Tensor
    gates: Tensor
    choices: Tensor
    chosen: Tensor
    ends: Tensor


def why_not_mixture(
    linears: tuple[nn.Module | None, ...], experts: tuple[Tensor | None, ...], activation: str
) -> str | None:
    """An export is computed as it is written."""
    return why_not_mlp(linears, activation)


def mixture_half(
    x: Tensor,
    norm: nn.RMSNorm,
    experts: Experts,
    routing: Routing,
    activation: str,
    times: float,
    base: Tensor | None = None,
) -> Mixed:
    """As mlp_half."""
    raise RuntimeError("an export has no fused form")


def why_not_product_keys(parts: ProductKeyParts, execution: Execution) -> str | None:
    """As why_not_mlp."""
    return "an export has no fused form"


def product_key_half(
    x: Tensor, norm: nn.RMSNorm, parts: ProductKeyParts, execution: Execution, times: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As kernels/product_key_layer.py has it, which an export has no use for."""
    raise RuntimeError("an export has no fused form")


def _wide(x: Tensor, table: Tensor) -> Tensor:
    """In float32, or float64 where the table is: what scores and sums are computed in."""
    return x.to(torch.float64 if table.dtype == torch.float64 else torch.float32)


def _blocks(idx: Tensor, table: Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, idx.shape[1] * table.shape[1]))
    return (slice(start, start + size) for start in range(0, len(idx), size))
