"""A product-key layer's half of a block, one autograd function, in C++ (csrc/), for CPUs.

    product_key_half(x, norm, parts, ...) -> y, indices, gates      y = x + times * layer(norm(x))

Between the functions for queries (csrc/queries.cpp), search (csrc/search.cpp) and retrieved rows
(csrc/retrieved.cpp) nothing is done but to name their arguments. float32 activations. Under
bfloat16 autocast the products of queries have bfloat16 operands; scores, gates and sums over rows
stay float32. What a table's gradient becomes is `Execution.gradient`, its pairs sorted once for all
tables of the layer. Results are the same to the bit for any number of threads.
"""

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from experiments.kernels.cpp import Cpp
from experiments.kernels.interface import Retrieved
from experiments.kernels.once import once
from experiments.kernels.ops import Execution, table_gradient
from experiments.kernels.product_keys import QUERY_NORMS, SCORES, ProductKeyParts, both_sets
from experiments.kernels.trunk import find_eps, why_not_linear
from experiments.kernels.trunk_passes import (
    ACTIVATIONS,
    UNIT,
    TrunkKernel,
    load_trunk,
    rounds_operands,
)
from experiments.kernels.workspace import WORKSPACE

_FIXED = len(QUERY_NORMS)  # csrc/queries.cpp: batch norm by its running statistics
_NORM_TYPES = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def why_not_product_keys(parts: ProductKeyParts, execution: Execution) -> str | None:
    """Why product_key_half can't take a layer's place, in words; None if it can."""
    norm, tables = parts.query_norm, (parts.w_down, parts.w_gate, parts.w_up)
    if (why := why_not_linear(parts.query)) is not None:
        return why
    n_features = parts.query.out_features
    if n_features % UNIT:
        return f"n_heads * d_key = {n_features} is no multiple of {UNIT}"
    if norm._forward_hooks or norm._forward_pre_hooks:
        return "a hook of the queries' norm wants to be called"
    plain = isinstance(norm, _NORM_TYPES[parts.norm_kind])
    if not plain or any(t.dtype != torch.float32 for t in norm.parameters()):
        return f"{type(norm).__name__} is not the queries' norm in float32"
    if parts.norm_kind == "batch" and _n_ranks() > 1:
        return "batch norm of queries is over the tokens of all ranks"
    if parts.activation not in ACTIVATIONS:
        return f"activation={parts.activation} has no fused form"
    if parts.sub_keys.dtype != torch.float32:
        return f"sub-keys are {parts.sub_keys.dtype}, not float32"
    if execution.columns is not None:
        return "other processes have columns of its tables"
    if execution.kernel not in ("auto", "cpp"):
        return f"kernel={execution.kernel} reads the tables"
    for table in tables:
        if table is not None and table.dtype not in (torch.float32, torch.bfloat16):
            return f"tables are {table.dtype}, not float32 or bfloat16"
        if table is not None and not table.is_contiguous():
            return "a table's rows are not one after another in memory"
    return None


def product_key_half(
    x: Tensor, norm: nn.RMSNorm, parts: ProductKeyParts, execution: Execution, times: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., D) x to the same; and the indices and gates without a gradient, each
    (T, n_heads * top_k), heads outermost. Running statistics are updated, unless parts.fixed.
    """
    if x.dtype != torch.float32:
        raise TypeError(f"x is {x.dtype}, not torch.float32")
    query_norm, momentum = parts.query_norm, 0.0
    scale, shift = (getattr(query_norm, name, None) for name in ("weight", "bias"))
    if isinstance(query_norm, nn.BatchNorm1d) and not parts.fixed:
        if x.numel() == x.shape[-1]:
            raise ValueError("batch norm of queries in training needs more than one token")
        assert query_norm.num_batches_tracked is not None
        query_norm.num_batches_tracked.add_(1)
        # without one, a cumulative average
        momentum = query_norm.momentum or 1 / float(query_norm.num_batches_tracked)
    return _Half.apply(
        x.contiguous(),
        norm.weight.contiguous(),
        parts.query.weight.contiguous(),
        None if scale is None else scale.contiguous(),
        None if shift is None else shift.contiguous(),
        parts.sub_keys,
        parts.w_down,
        parts.w_gate,
        parts.w_up,
        parts,
        execution,
        (find_eps(norm), getattr(query_norm, "eps", 0.0), momentum),
        times,
    )


def _operators() -> TrunkKernel:
    operators = load_trunk()
    assert operators is not None, "asked for without asking whether it can be had"
    return operators


def _zeros(weights: tuple[Tensor | None, ...], asked: tuple[bool, ...]) -> list[Tensor | None]:
    """For the gradients that are asked for."""
    pairs = zip(weights, asked, strict=True)
    return [torch.zeros_like(w) if w is not None and needed else None for w, needed in pairs]


def _room(*shape: int) -> Tensor:
    """float32, in memory of the workspace: fresh memory would be faulted in page by page."""
    return WORKSPACE.empty(shape, torch.float32)


def _is_half(table: Tensor) -> bool:
    return table.dtype == torch.bfloat16


def _n_ranks() -> int:
    there = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if there else 1


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        query: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        sub_keys: Tensor,
        w_down: Tensor | None,
        w_gate: Tensor | None,
        w_up: Tensor,
        parts: ProductKeyParts,
        execution: Execution,
        numbers: tuple[float, ...],
        times: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernel = execution.on(w_up)
        assert isinstance(kernel, Cpp)
        d, n_heads, top_k = x.shape[-1], parts.n_heads, parts.top_k
        n_tokens, n_features = x.numel() // d, len(query)
        keys, n_first = both_sets(sub_keys.contiguous(), parts.n_first)
        kind = _FIXED if parts.fixed else QUERY_NORMS.index(parts.norm_kind)
        n_inverse = [0, n_tokens * n_heads, n_features, n_features][kind]

        normed, inverse = _room(n_tokens, d), _room(n_tokens)
        queries = _room(n_tokens, n_heads, 2, n_features // n_heads // 2)
        hat = _room(*queries.shape) if n_inverse else None
        inverse_of_queries = _room(n_inverse) if n_inverse else None
        running = [getattr(parts.query_norm, f"running_{n}", None) for n in ("mean", "var")]
        kept = (normed, inverse, hat, queries, inverse_of_queries)
        sizes = (n_tokens, d, n_heads, n_features // n_heads, kind)
        bf16 = rounds_operands()
        given = (x, norm, query, scale, shift, *running)
        _operators().call("queries_forward", (*given, *kept), sizes, numbers, bf16)

        bias = None if parts.bias is None else parts.bias.contiguous()
        gates, first, second = kernel.search(queries, keys, n_first, top_k, bias)
        gates = gates.view(n_tokens, -1)  # scores, for now
        n_second = keys.shape[1] - n_first
        functions = (SCORES.index(parts.score), ACTIVATIONS.index(parts.activation))
        row_sizes = (n_tokens, d, n_heads, top_k, n_second, *functions, int(_is_half(w_up)))
        idx = WORKSPACE.empty(gates.shape, torch.int64)
        hidden = None if w_down is None else _room(*gates.shape)
        opened = None if w_gate is None else _room(*gates.shape)
        y, tables = _room(*x.shape), (w_down, w_gate, w_up)
        pairs = (idx, gates, hidden, opened)
        rows = (x, normed, *tables, first, second, *pairs, y)
        _operators().call("retrieved_forward", rows, row_sizes, (times,), False)

        ctx.save_for_backward(*(x, norm, query, scale, *kept, keys, first, second), *tables, *pairs)
        ctx.kernel, ctx.execution, ctx.keys_shape = kernel, execution, sub_keys.shape
        ctx.sizes, ctx.row_sizes = (*sizes, top_k, len(keys), n_first, n_second), row_sizes
        ctx.numbers, ctx.times, ctx.bf16 = numbers, times, bf16
        ctx.mark_non_differentiable(idx, gates)
        ctx.set_materialize_grads(False)  # zeros as gradients of indices, never looked at
        return y, idx, gates

    @staticmethod
    @once("a kernel of tables, unlike kernel=reference,")
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 13
        dy, asked = dy.contiguous(), ctx.needs_input_grad
        queries, (keys, *found), tables, pairs = _cut(ctx.saved_tensors, 9, 3, 3, 4)
        x, norm, query, scale, normed = queries[:5]
        # weights of the sums over a table's rows; dscores
        weights_of: list[Any] = [_room(*pairs[1].shape) if w is not None else None for w in tables]
        dscores = _room(*pairs[1].shape)
        dnormed = None if tables[0] is None else _room(*normed.shape)
        rows = (*tables, *pairs, dy, dnormed, *weights_of, dscores)
        _operators().call("retrieved_backward", rows, ctx.row_sizes, (ctx.times,), False)

        dx = _room(*x.shape)
        dnorm, dquery, dkeys = _zeros((norm, query, keys), (asked[1], asked[2], asked[5]))
        dscale, dshift = _zeros((scale, scale), asked[3:5])
        sums = (dx, dnorm, dquery, dscale, dshift, dkeys)
        tensors = (*queries, keys, *found, dscores, dy, dnormed, *sums)
        _operators().call("queries_backward", tensors, ctx.sizes, ctx.numbers, ctx.bf16)

        of_tables: list[Tensor | None] = [None, None, None]
        if any(asked[6:9]):
            execution = ctx.execution
            distinct = execution.gradient == "rows" and execution.update is None
            retrieved = Retrieved(pairs[0], len(tables[2]), ctx.kernel, distinct)
            values = (normed, normed, dy.view(len(normed), -1))
            for i in range(3):
                if asked[6 + i]:  # after all that reads them: an update changes the tables
                    of_tables[i] = table_gradient(
                        tables[i], values[i], retrieved, weights_of[i], execution
                    )
        dkeys = None if dkeys is None else dkeys.view(ctx.keys_shape)
        return dx, dnorm, dquery, dscale, dshift, dkeys, *of_tables, None, None, None, None


def _cut(tensors: tuple[Any, ...], *sizes: int) -> list[tuple[Any, ...]]:
    ends = list(accumulate(sizes, initial=0))
    return [tensors[a:b] for a, b in pairwise(ends)]
