"""A whole training step of a decoder, dense and with a PEER layer in the middle.

Queries are normalised over the batch, and noise is added to the layer's input (core/loop.py).
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, partial

import torch
from torch import Tensor

from experiments.benchmarks.core.arguments import QUICK, add_comparison
from experiments.benchmarks.core.comparing import run_comparison
from experiments.benchmarks.core.loop import Loop, Sizes
from experiments.benchmarks.core.memory import (
    fitting,
    moments_bytes,
    release,
    sums_bytes,
    table_bytes,
)
from experiments.benchmarks.core.moments import Moments
from experiments.benchmarks.core.report import Comparison
from experiments.benchmarks.core.shapes import Settings, Shape, type_name
from experiments.benchmarks.core.timing import Contender
from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEER, PEERConfig
from experiments.optim.gradients import keep_coalesced
from experiments.system.command import at_least
from experiments.training.compiled import CompileClock

DENSE = "dense"
_COMPILED = " compiled"
_D_HEAD = 32
_TRUNK = {"layers": 6, "vocab": 8192, "seq_len": 256}


def arguments(parser: ArgumentParser) -> None:
    for option, default in _TRUNK.items():
        flag = f"--{option.replace('_', '-')}"
        parser.add_argument(flag, type=at_least(1), metavar="N", help=f"(default {default})")
    parser.add_argument(
        "--compile", action="store_true", help="each contender with torch.compile too (minutes)"
    )
    usual = {"d": "256", "n_experts": "1048576", "tokens": "4096", "d_key": "256,32"}
    quick = {**QUICK, "layers": 2, "vocab": 512, "seq_len": 64}
    add_comparison(parser, {**usual, **_TRUNK}, on_gpu={}, quick=quick, kernels="{}")


def run(options: Namespace) -> None:
    def sections(shapes: Sequence[Shape], settings: Settings) -> Iterator[Comparison]:
        for shape in shapes:
            if shape.n_tokens % options.seq_len:
                raise ValueError(
                    f"--tokens {shape.n_tokens} must be a multiple of --seq-len {options.seq_len}"
                )
        for shape in shapes:
            sizes = Sizes(
                d_model=shape.d_model,
                d_head=_D_HEAD,
                n_layers=options.layers,
                vocab_size=options.vocab,
                seq_len=options.seq_len,
                sequences=shape.n_tokens // options.seq_len,
                tie_head=False,
            )
            yield _compare(shape, sizes, settings, options.compile)
            release(settings.device)

    run_comparison(options, sections)


class _Model:
    """A decoder, its data, and the ways to make a training step of it."""

    def __init__(self, shape: Shape, sizes: Sizes, settings: Settings, *, peer: bool) -> None:
        torch.manual_seed(0)
        ffn = PEERConfig(
            n_experts=shape.n_experts,
            n_heads=shape.n_heads,
            top_k=shape.top_k,
            d_key=shape.d_key,
            query_norm="batch",
            table_dtype=type_name(settings.table_dtype),
        )
        self.config = sizes.model(ffn if peer else DenseConfig())
        with torch.device(settings.device):
            self.model = self.config.build()
            self.batches = sizes.batches(1)
            sizes.spread(self.model)
        self.layer = next((f for f in self.model.ffn_layers() if isinstance(f, PEER)), None)
        tables = [] if self.layer is None else [self.layer.w_down, self.layer.w_up]
        for table in tables:  # as training prepares them
            if settings.huge_pages:
                use_huge_pages(table)
            keep_coalesced(table, Execution())
        self.moments = Moments(tables, settings.huge_pages)
        ours = set(tables)
        rest = [parameter for parameter in self.model.parameters() if parameter not in ours]
        self.rest = torch.optim.AdamW(rest, lr=1e-6, fused=True)

    def step(
        self, kernel: KernelName = "auto", way: str | None = None, *, compiled: bool = False
    ) -> Callable[[], object]:
        """A step, without clipping; way: of the tables, dense, rows or fused."""
        how, *tables = (None,) if way is None else self.moments.way(kernel, way)
        loop = Loop(self.model, self.batches, self.rest, *tables, grad_clip=None, execution=how)
        if compiled:
            loop.compile()
        return loop.step

    @torch.no_grad()
    def n_distinct(self) -> int:
        """Experts that a batch retrieves."""
        assert self.layer is not None
        seen: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        self.model(self.batches[0][0][0])
        hook.remove()
        indices, _ = self.layer.route(seen[0].flatten(0, -2))
        return len(indices.unique())


def _compare(shape: Shape, sizes: Sizes, settings: Settings, compiled: bool) -> Comparison:
    dense = _Model(shape, sizes, settings, peer=False)
    peer = cache(lambda: _Model(shape, sizes, settings, peer=True))  # if any of its ways fits
    tables = 2 * table_bytes(shape, settings) + moments_bytes(shape, settings)
    entries = _entries(shape, settings, peer, compiled)
    chosen, notes = fitting(entries, settings.device, tables)
    contenders = [Contender(name=DENSE, make=dense.step)]
    if compiled:
        make = partial(dense.step, compiled=True)
        contenders.append(Contender(name=DENSE + _COMPILED, make=make, baseline=DENSE))
    contenders += chosen
    clock = CompileClock()
    with clock.counted():  # before the round that counts how often a contender fits into a repeat
        for contender in contenders:
            if contender.name.endswith(_COMPILED):
                contender.call()
    timings = settings.compare(contenders, shape.describe())
    flops = {DENSE: dense.config.cost().training_flops}
    if chosen:
        flops["PEER"] = peer().config.cost().training_flops
        n = peer().n_distinct()
        notes.append(f"a batch retrieves {n} distinct experts ({n / shape.n_experts:.1%})")
    each = ", ".join(f"{name} {value / 1e6:.1f}" for name, value in flops.items())
    if compiled:
        notes.append(f"torch.compile took {clock.seconds:.1f} s for all of them, not timed above")
    trunk = {name: getattr(sizes, name) for name in ("n_layers", "vocab_size", "seq_len")}
    return Comparison(
        title=f"training step, {shape.describe()}, {sizes.n_layers} blocks, vocabulary "
        f"{sizes.vocab_size}, sequences of {sizes.seq_len}, "
        f"tables {type_name(settings.table_dtype)}",
        shape={**asdict(shape), **trunk, "compiled": compiled},
        timings=timings,
        columns={
            f"time / {DENSE}": {t.name: 1 / t.times_faster_than(timings[0]) for t in timings},
            "tokens/s": {t.name: shape.n_tokens / t.median for t in timings},
        },
        notes=[*notes, f"training MFLOP a token, not made equal: {each}"],
        facts={"training_flops_per_token": flops},
    )


def _entries(
    shape: Shape, settings: Settings, peer: Callable[[], _Model], compiled: bool
) -> Iterator[Contender]:
    """Compiled contenders have their eager selves as baselines."""

    def step(kernel: KernelName, way: str, compiled: bool) -> Callable[[], object]:
        return peer().step(kernel, way, compiled=compiled)

    for kernel in settings.kernels:
        for way in ("rows", "fused", "dense"):
            sums = 2 * sums_bytes(shape, settings, way)
            eager = Contender(
                name=f"PEER {kernel} {way}",
                baseline=DENSE,
                make=partial(step, kernel, way, False),
                needs=sums,
                keeps=sums * 3 // 2,
            )
            yield eager
            if compiled:
                yield replace(
                    eager,
                    name=eager.name + _COMPILED,
                    baseline=eager.name,
                    make=partial(step, kernel, way, True),
                )
