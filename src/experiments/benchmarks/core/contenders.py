"""Who takes part in a comparison of layers: rivals first, then ours by kernel and by gradient."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.memory import (
    gathered_bytes,
    scores_bytes,
    sums_bytes,
    table_bytes,
)
from experiments.benchmarks.core.rivals import NAIVE, PEER_PYTORCH, PRODUCT_KEY_MEMORY
from experiments.benchmarks.core.timing import Call, Contender
from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.kernels.trunk_passes import UNIT
from experiments.models.ffn._product_keys import QueryNorm
from experiments.models.ffn.peer import PEER
from experiments.models.ffn.pkm import PKM

HALF = "cpp half, rows"
_NAIVE_ROUNDS = 3  # it is as slow as PEER-pytorch, and there for where that isn't installed
_STEPS = {"dense": "dense + AdamW", "rows": "rows + RowAdamW", "fused": "fused"}
_GRADIENTS: tuple[Literal["rows", "dense"], ...] = ("rows", "dense")
_ROWS = Execution(kernel="cpp", gradient="rows")


def passes(case: Case, absent: Collection[str]) -> Iterator[Contender]:
    """Forward and backward. absent: rivals that are not installed."""
    rival = None if PEER_PYTORCH in absent else PEER_PYTORCH
    if rival is not None:
        yield case.contender(rival, lambda: case.passes(case.peer_rival), needs=_by_the_book(case))
    rounds = None if rival is None else _NAIVE_ROUNDS
    yield case.contender(
        NAIVE, lambda: case.passes(case.naive), baseline=rival, max_rounds=rounds,
        needs=_by_the_book(case),
    )  # fmt: skip
    yield from halves(case, rival or NAIVE)
    yield from _ours(case, "", lambda: case.peer, 2, rival or NAIVE)
    if PRODUCT_KEY_MEMORY not in absent:
        needs = 3 * scores_bytes(case.shape) + table_bytes(case.shape, case.settings)
        yield case.contender(PRODUCT_KEY_MEMORY, lambda: case.passes(case.pkm_rival), needs=needs)
    yield from _ours(case, "PKM ", lambda: case.pkm, 1, PRODUCT_KEY_MEMORY)


def steps(case: Case, absent: Collection[str]) -> Iterator[Contender]:
    """Forward, backward and AdamW of both tables; other parameters are not updated."""

    def step(kernel: KernelName, way: str) -> Call:
        how, optimizer = case.moments.way(kernel, way)
        return _then(case.passes(case.peer, how), optimizer)

    baseline = f"{PEER_PYTORCH} + AdamW"
    if PEER_PYTORCH not in absent:
        yield case.contender(
            baseline, lambda: _then(case.passes(case.peer_rival), case.moments.adamw()),
            needs=_by_the_book(case),
        )  # fmt: skip
    for kernel in case.settings.kernels:
        for way, name in _STEPS.items():
            sums = 2 * sums_bytes(case.shape, case.settings, way)
            yield case.contender(
                f"{kernel} {name}", partial(step, kernel, way), baseline=baseline, needs=sums,
                keeps=_kept(kernel, sums),
            )  # fmt: skip


def halves(case: Case, baseline: str) -> Iterator[Contender]:
    """Our PEER layer as a run trains it on a CPU: its half of a block, x + layer(norm(x)), fused,
    forward and backward, with gradients of rows. Twice: with the router of the other contenders,
    and with batch norm of the queries, which a run has by default. None where it can't be had.
    """
    shape, on_cpu = case.shape, case.settings.device == "cpu"
    width = shape.n_heads * shape.d_key
    if not on_cpu or "cpp" not in case.settings.kernels or shape.d_model % UNIT or width % UNIT:
        return  # kernels/product_key_layer.py
    # queries too, and what comes of them
    needs = 2 * sums_bytes(shape, case.settings, "rows") + 5 * shape.n_tokens * width * 4
    layers = ((HALF, lambda: case.peer), (f"{HALF}, batch norm", lambda: _with_batch_norm(case)))
    for name, layer in layers:
        make = partial(lambda layer: make_half(case, layer()), layer)
        yield case.contender(name, make, baseline=baseline, needs=needs, keeps=_kept("cpp", needs))


def make_half(case: Case, layer: PEER) -> Call:
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
    """Same layer and weights, its queries normalised over the tokens."""
    with torch.device("meta"):
        layer: PEER = replace(case.peer.config, query_norm="batch").build(case.shape.d_model)
    for name, parameter in case.peer.named_parameters():
        owner, _, last = name.rpartition(".")
        setattr(layer.get_submodule(owner), last, parameter)
    layer.query_norm = QueryNorm("batch", layer.n_heads, layer.d_key)
    case.own(layer.query_norm)
    return layer


def _ours(
    case: Case, prefix: str, layer: Callable[[], PEER | PKM], n_tables: int, baseline: str
) -> Iterator[Contender]:
    for kernel in case.settings.kernels:
        for gradient in _GRADIENTS:
            how = Execution(kernel=kernel, gradient=gradient)
            sums = sums_bytes(case.shape, case.settings, gradient) * n_tables
            yield case.contender(
                f"{prefix}{kernel} {gradient}", partial(lambda how: case.passes(layer(), how), how),
                baseline=baseline, needs=sums, keeps=_kept(kernel, sums),
            )  # fmt: skip


def _then(passes: Call, optimizer: torch.optim.Optimizer) -> Call:
    def call() -> None:
        passes()
        optimizer.step()

    return call


def _by_the_book(case: Case) -> int:
    """Bytes of both tables' rows and their gradients; scores, theirs; dense gradients."""
    held = gathered_bytes(case.shape, case.settings)
    return 4 * held + 3 * scores_bytes(case.shape) + 2 * table_bytes(case.shape, case.settings)


def _kept(kernel: str, sums: int) -> int:
    """What the workspace keeps: one and a half times what was in use at once."""
    return sums * 3 // 2 if kernel == "cpp" else 0
