"""Our PEER layer as a run trains it on a CPU: its half of a block, x + layer(norm(x)), fused.

Twice: with the router of the other contenders, and with batch norm of the queries, which a run has
by default.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from experiments.benchmarks.core.case import Call, Case
from experiments.benchmarks.core.memory import Entry, sums_bytes
from experiments.kernels.ops import Execution
from experiments.kernels.trunk_passes import UNIT
from experiments.models.ffn._product_keys import QueryNorm
from experiments.models.ffn.peer import PEER

HALF = "cpp half, rows"
_ROWS = Execution(kernel="cpp", gradient="rows")


def halves(case: Case, baseline: str) -> Iterator[Entry]:
    """Forward and backward of both, with gradients of rows. None where they can't be had."""
    if case.settings.device != "cpu" or "cpp" not in case.settings.kernels:
        return
    shape = case.shape
    if shape.d_model % UNIT or shape.n_heads * shape.d_key % UNIT:
        return  # kernels/product_key_layer.py
    sums = 2 * sums_bytes(shape, case.settings, "rows")
    kept = 5 * shape.n_tokens * shape.n_heads * shape.d_key * 4  # queries, and what comes of them
    layers: dict[str, Callable[[], PEER]] = {
        HALF: lambda: case.peer,
        f"{HALF}, batch norm": lambda: _with_batch_norm(case),
    }
    for name, layer in layers.items():
        yield Entry(
            name=name,
            baseline=baseline,
            make=partial(_made, case, layer),
            needs=sums + kept,
            keeps=(sums + kept) * 3 // 2,
        )


def _made(case: Case, layer: Callable[[], PEER]) -> Call:
    return half_of(case, layer())


def half_of(case: Case, layer: PEER) -> Call:
    """Forward and backward of its half of a block. Raises ValueError where it isn't fused."""
    norm = nn.RMSNorm(case.shape.d_model)
    case.own(norm)
    layer.execution = _ROWS
    if (why := layer.why_not_fused()) is not None:
        raise ValueError(f"the layer has no fused half here: {why}")

    def call() -> None:
        layer.execution = _ROWS
        with case.settings.autocast():
            y = layer.fused_half(case.x, norm, 1.0)
        y.backward(case.upstream)

    return call


def _with_batch_norm(case: Case) -> PEER:
    """The same layer and weights, its queries normalised over the tokens."""
    with torch.device("meta"):
        layer: PEER = replace(case.peer.config, query_norm="batch").build(case.shape.d_model)
    for name, parameter in case.peer.named_parameters():
        owner, _, last = name.rpartition(".")
        setattr(layer.get_submodule(owner), last, parameter)
    layer.query_norm = QueryNorm("batch", layer.n_heads, layer.d_key)
    case.own(layer.query_norm)
    return layer
