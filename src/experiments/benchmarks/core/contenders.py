"""Who takes part in a comparison of layers: rivals first, then ours by kernel and by gradient."""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch

from experiments.benchmarks.core.case import Call, Case
from experiments.benchmarks.core.halves import halves
from experiments.benchmarks.core.memory import (
    Entry,
    gathered_bytes,
    scores_bytes,
    sums_bytes,
    table_bytes,
)
from experiments.benchmarks.core.rivals import NAIVE, PEER_PYTORCH, PRODUCT_KEY_MEMORY
from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.models.ffn.peer import PEER
from experiments.models.ffn.pkm import PKM

_NAIVE_ROUNDS = 3  # it is as slow as PEER-pytorch, and there for where that isn't installed
_STEPS = {"dense": "dense + AdamW", "rows": "rows + RowAdamW", "fused": "fused"}


def passes(case: Case, absent: Collection[str]) -> Iterator[Entry]:
    """Forward and backward. absent: rivals that are not installed."""
    baseline = NAIVE if PEER_PYTORCH in absent else PEER_PYTORCH
    if PEER_PYTORCH not in absent:
        yield Entry(
            name=PEER_PYTORCH,
            baseline=None,
            make=lambda: case.passes(case.peer_rival),
            needs=_by_the_book(case),
        )
    yield Entry(
        name=NAIVE,
        baseline=None if baseline == NAIVE else baseline,
        make=lambda: case.passes(case.naive),
        needs=_by_the_book(case),
        max_rounds=None if baseline == NAIVE else _NAIVE_ROUNDS,
    )
    yield from halves(case, baseline)
    yield from _ours(case, "", lambda: case.peer, 2, baseline)
    if PRODUCT_KEY_MEMORY not in absent:
        yield Entry(
            name=PRODUCT_KEY_MEMORY,
            baseline=None,
            make=lambda: case.passes(case.pkm_rival),
            needs=3 * scores_bytes(case.shape) + table_bytes(case.shape, case.settings),
        )
    yield from _ours(case, "PKM ", lambda: case.pkm, 1, PRODUCT_KEY_MEMORY)


def steps(case: Case, absent: Collection[str]) -> Iterator[Entry]:
    """Forward, backward and AdamW of both tables; other parameters are not updated."""
    baseline = f"{PEER_PYTORCH} + AdamW"
    if PEER_PYTORCH not in absent:
        yield Entry(
            name=baseline,
            baseline=None,
            make=lambda: _then(case.passes(case.peer_rival), case.moments.adamw()),
            needs=_by_the_book(case),
        )
    for kernel in case.settings.kernels:
        for way, name in _STEPS.items():
            sums = 2 * sums_bytes(case.shape, case.settings, way)
            yield Entry(
                name=f"{kernel} {name}",
                baseline=baseline,
                make=partial(_step, case, kernel, way),
                needs=sums,
                keeps=_kept(kernel, sums),
            )


def _ours(
    case: Case, prefix: str, layer: Callable[[], PEER | PKM], n_tables: int, baseline: str
) -> Iterator[Entry]:
    for kernel in case.settings.kernels:
        for gradient in ("rows", "dense"):
            how = Execution(kernel=kernel, gradient="rows" if gradient == "rows" else "dense")
            sums = sums_bytes(case.shape, case.settings, gradient) * n_tables
            yield Entry(
                name=f"{prefix}{kernel} {gradient}",
                baseline=baseline,
                make=partial(_passes, case, layer, how),
                needs=sums,
                keeps=_kept(kernel, sums),
            )


def _passes(case: Case, layer: Callable[[], PEER | PKM], how: Execution) -> Call:
    return case.passes(layer(), how)


def _step(case: Case, kernel: KernelName, way: str) -> Call:
    how, optimizer = case.moments.way(kernel, way)
    return _then(case.passes(case.peer, how), optimizer)


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
    """The workspace keeps one and a half times what was in use at once."""
    return sums * 3 // 2 if kernel == "cpp" else 0
