"""Search for product keys, forward and forward + backward.

Ours, and with torch.topk on all scores and all k² pairs.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.core.arguments import GRID, add_comparison
from experiments.benchmarks.core.comparing import run_comparison
from experiments.benchmarks.core.memory import release
from experiments.benchmarks.core.report import Comparison
from experiments.benchmarks.core.rivals import stock_topk
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.benchmarks.core.timing import Contender
from experiments.kernels.ops import Execution, product_key_topk

STOCK = "stock"
_TOLERANCE = 1e-4  # of scores near 1, float32: sums of d_key products in any order
Search = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def arguments(parser: ArgumentParser) -> None:
    add_comparison(parser, {"d": "256", "n_experts": GRID, "tokens": "1024,4096"})


def run(options: Namespace) -> None:
    run_comparison(options, sections)


def sections(shapes: Sequence[Shape], settings: Settings) -> Iterator[Comparison]:
    """Forward alone, and forward and backward, at each shape."""
    for shape in shapes:
        yield _compare(shape, settings)
        release(settings.device)


def _compare(shape: Shape, settings: Settings) -> Comparison:
    torch.manual_seed(0)
    size = (shape.n_heads, 2, shape.n_sub, shape.d_key // 2)
    queries = torch.randn(shape.n_tokens, shape.n_heads, shape.d_key, device=settings.device)
    # uniform within +-(d_key / 2)**-0.5, as the layers initialise them
    sub_keys = torch.empty(size, device=settings.device).uniform_(-1, 1) * (shape.d_key / 2) ** -0.5
    upstream = torch.randn(shape.n_tokens, shape.n_heads, shape.top_k, device=settings.device)
    queries.requires_grad_()
    sub_keys.requires_grad_()

    searches: dict[str, Search] = {STOCK: stock_topk}
    for kernel in settings.kernels:
        searches[kernel] = partial(product_key_topk, execution=Execution(kernel=kernel))

    def forward(search: Search) -> Tensor:
        with torch.no_grad():
            return search(queries, sub_keys, shape.top_k)[0]

    def both(search: Search) -> None:
        search(queries, sub_keys, shape.top_k)[0].backward(upstream)

    def drop() -> None:
        queries.grad = sub_keys.grad = None

    stock = forward(stock_topk)
    furthest = max(float((forward(s) - stock).abs().max()) for s in searches.values())
    if not furthest < _TOLERANCE * max(1.0, float(stock.abs().max())):
        raise RuntimeError(f"the searches differ: scores by up to {furthest:.2g}")
    contenders = [
        Contender(
            name=f"{name}, {what}",
            make=partial(partial, call, search),
            before=drop,
            baseline=None if name == STOCK else f"{STOCK}, {what}",
        )
        for what, call in (("forward", forward), ("forward + backward", both))
        for name, search in searches.items()
    ]
    timings = settings.compare(contenders, shape.describe())
    flops = 2 * shape.n_tokens * shape.n_heads * shape.n_sub * shape.d_key
    return Comparison(
        title=f"retrieval, {shape.describe()}",
        shape=asdict(shape),
        timings=timings,
        columns={
            "GFLOP/s of scores": {
                t.name: flops / 1e9 / t.median for t in timings if t.name.endswith("forward")
            }
        },
        notes=[f"scores differ by at most {furthest:.2g}"],
    )
