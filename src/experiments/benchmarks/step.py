"""A whole training step of a decoder, dense and with one PEER layer in the middle.

Untrained routing on random tokens collapses onto few experts, whose rows then stay in the cache:
table time all but vanishes, a false win. So queries are normalised over the batch, and noise is
added to the layer's input, which spreads tokens evenly: the worst case.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.memory_fit import Entry, fitting, moments_bytes, sums_bytes, table_bytes
from experiments.benchmarks.optimizer import Moments
from experiments.benchmarks.shapes import Settings, Shape, type_name
from experiments.benchmarks.tables import Comparison, Report
from experiments.benchmarks.timing import Contender, compare
from experiments.config.schema import KernelName
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import WORKSPACE, use_huge_pages
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEER, PEERConfig
from experiments.models.transformer import Transformer, TransformerConfig, assign_ffns
from experiments.optim.optimizer import keep_coalesced
from experiments.training.compiled import CompileClock, compile_trunk

DENSE = "dense"
_COMPILED = " compiled"
_D_HEAD = 32


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """Sizes of the decoder; its width and tokens a step are the Shape's."""

    n_layers: int
    vocab_size: int
    seq_len: int
    compiled: bool = False  # beside eager steps, those whose trunk torch.compile makes


def run(shapes: Sequence[Shape], trunk: Trunk, settings: Settings, report: Report) -> None:
    """A comparison of each shape."""
    for shape in shapes:
        if shape.n_tokens % trunk.seq_len:
            raise ValueError(
                f"--tokens {shape.n_tokens} must be a multiple of --seq-len {trunk.seq_len}"
            )
    for shape in shapes:
        report.add(_compare(shape, trunk, settings))
        gc.collect()
        WORKSPACE.release()


class _Model:
    """A decoder, its data, and the ways to make a training step of it."""

    def __init__(self, shape: Shape, trunk: Trunk, settings: Settings, *, peer: bool) -> None:
        torch.manual_seed(0)
        self.trunk, self.settings = trunk, settings
        self.config = _config(shape, trunk, type_name(settings.table_dtype), peer)
        batch = (shape.n_tokens // trunk.seq_len, trunk.seq_len + 1)
        with torch.device(settings.device):
            self.model: Transformer = self.config.build()
            tokens = torch.randint(trunk.vocab_size, batch)
            noise = torch.randn(batch[0], trunk.seq_len, shape.d_model)
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:].flatten()
        self.layer = next((f for f in self.model.ffn_layers() if isinstance(f, PEER)), None)
        tables = []
        if self.layer is not None:
            # the same noise in each step: drawing it is no part of a training step
            self.layer.register_forward_pre_hook(lambda _, x: (x[0] + noise,))
            tables = [self.layer.w_down, self.layer.w_up]
            for table in tables:  # as training prepares them
                if settings.huge_pages:
                    use_huge_pages(table)
                keep_coalesced(table, self.layer.execution)
            self.moments = Moments(tables, settings.huge_pages)
        ours = set(tables)
        rest = [parameter for parameter in self.model.parameters() if parameter not in ours]
        self.rest = torch.optim.AdamW(rest, lr=1e-6, fused=True)

    def step(self, kernel: KernelName, way: str, *, compiled: bool = False) -> Callable[[], None]:
        """A step; way: none (without tables), dense, rows or fused."""
        forward = compile_trunk(self.model) if compiled else self.model
        optimizers: list[torch.optim.Optimizer] = [self.rest]
        how = Execution(kernel=kernel, gradient="dense" if way == "dense" else "rows")
        if way == "dense":
            optimizers.append(self.moments.adamw())
        elif way != "none":
            by_rows = self.moments.row_adamw(way, how)
            optimizers.append(by_rows)
            how = replace(how, update=by_rows.update if way == "fused" else None)

        def call() -> None:
            """All that training does but reading data, clipping and writing down."""
            if self.layer is not None:
                self.layer.execution = how
            logits = forward(self.inputs)
            F.cross_entropy(logits.flatten(0, 1).float(), self.targets).backward()
            for optimizer in optimizers:
                optimizer.step()
            self.model.zero_grad(set_to_none=True)

        return call

    @torch.no_grad()
    def n_distinct(self) -> int:
        """Experts that a batch retrieves."""
        assert self.layer is not None
        seen: list[Tensor] = []
        hook = self.layer.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
        self.model(self.inputs)
        hook.remove()
        indices, _ = self.layer.route(seen[0].flatten(0, -2))
        return len(indices.unique())


def _compare(shape: Shape, trunk: Trunk, settings: Settings) -> Comparison:
    dense = _Model(shape, trunk, settings, peer=False)
    peer = cache(lambda: _Model(shape, trunk, settings, peer=True))  # if any of its ways fits
    tables = 2 * table_bytes(shape, settings) + moments_bytes(shape, settings)
    entries = _entries(shape, settings, peer, trunk.compiled)
    chosen, notes = fitting(entries, settings.device, tables)
    contenders = [Contender(name=DENSE, call=dense.step("auto", "none"))]
    if trunk.compiled:
        call = dense.step("auto", "none", compiled=True)
        contenders.append(Contender(name=DENSE + _COMPILED, call=call, baseline=DENSE))
    contenders += [Contender(name=e.name, call=e.make(), baseline=e.baseline) for e in chosen]
    clock = CompileClock()
    with clock.counted():  # before the round that counts how often a contender fits into a repeat
        for contender in contenders:
            if contender.name.endswith(_COMPILED):
                contender.call()
    timings = compare(
        contenders, rounds=settings.rounds, device=settings.device, label=shape.describe()
    )
    flops = {DENSE: dense.config.cost().training_flops}
    if chosen:
        flops["PEER"] = peer().config.cost().training_flops
        n = peer().n_distinct()
        notes.append(f"a batch retrieves {n} distinct experts ({n / shape.n_experts:.1%})")
    each = ", ".join(f"{name} {value / 1e6:.1f}" for name, value in flops.items())
    if trunk.compiled:
        notes.append(f"torch.compile took {clock.seconds:.1f} s for all of them, not timed above")
    return Comparison(
        title=f"training step, {shape.describe()}, {trunk.n_layers} blocks, vocabulary "
        f"{trunk.vocab_size}, sequences of {trunk.seq_len}, "
        f"tables {type_name(settings.table_dtype)}",
        shape={**asdict(shape), **asdict(trunk)},
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
) -> Iterator[Entry]:
    """Compiled contenders have their eager selves as baselines."""
    for kernel in settings.kernels:
        for way in ("rows", "fused", "dense"):
            sums = 2 * sums_bytes(shape, settings, way)
            eager = Entry(
                name=f"PEER {kernel} {way}",
                baseline=DENSE,
                make=partial(_step, peer, kernel, way, False),
                needs=sums,
                keeps=sums * 3 // 2,
            )
            yield eager
            if compiled:
                yield replace(
                    eager,
                    name=eager.name + _COMPILED,
                    baseline=eager.name,
                    make=partial(_step, peer, kernel, way, True),
                )


def _step(
    peer: Callable[[], _Model], kernel: KernelName, way: str, compiled: bool
) -> Callable[[], None]:
    return peer().step(kernel, way, compiled=compiled)


def _config(shape: Shape, trunk: Trunk, table_dtype: str, peer: bool) -> TransformerConfig:
    """The middle block's feed-forward layer is PEER, or, as all others, dense and 4 d wide."""
    layer = PEERConfig(
        n_experts=shape.n_experts,
        n_heads=shape.n_heads,
        top_k=shape.top_k,
        d_key=shape.d_key,
        query_norm="batch",
        table_dtype=table_dtype,
    )
    dense = DenseConfig()
    return TransformerConfig(
        d_model=shape.d_model,
        d_head=_D_HEAD,
        vocab_size=trunk.vocab_size,
        seq_len=trunk.seq_len,
        tie_head=False,
        ffns=assign_ffns(layer if peer else dense, dense, "middle", trunk.n_layers),
    )
