"""A training step on a CPU by the fused trunk, beside eager torch and jax; takes overrides.

As many processes as there are cores make the same steps at once, each on a core of its own, as a
study's runs do; rates are the sums of all. Without overrides of experiments.run at the shapes of
--shapes, with them at the run that they say: experiment=demo model=peer size=2.

EXPERIMENTS_KERNEL_LEVEL=avx2 shows what the fused trunk is worth on a processor without AVX-512.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.core.agreement import Passed, check_passes
from experiments.benchmarks.core.arguments import (
    add_json,
    check_json,
    save_json,
    takes_overrides,
)
from experiments.benchmarks.core.drafts import drafted
from experiments.benchmarks.core.jax_loop import JAX, JaxLoop, why_not_jax
from experiments.benchmarks.core.loop import OPTIM, Loop, Sizes
from experiments.benchmarks.core.machine import gate
from experiments.benchmarks.core.report import Comparison, printed
from experiments.benchmarks.core.sides import Sides, repeated
from experiments.budget.costs import FFNConfig
from experiments.config.constraints import KernelName, check_once
from experiments.config.optim import Optim
from experiments.kernels.products import measured_peak_flops
from experiments.kernels.trunk_passes import load_trunk
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEER, PEERConfig
from experiments.models.freezing import freeze
from experiments.models.fused import why_not_fused
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import build_optimizer
from experiments.system import environment
from experiments.system.command import at_least

EAGER = "eager float32"
_BF16 = "bf16"  # a contender's with factors of bfloat16 has it in its name
_N_BATCHES = 4
_SECONDS = 1.0  # of a repeat
# gradients may be so far apart, over their norm: sums in another order; factors of 8 bits
_ALLOWED = {"float32": 1e-4, _BF16: 0.05}
# where experts are chosen, by scores that are equal but for rounding
_ALLOWED_OF_EXPERTS = {"float32": 0.01, _BF16: 0.1}
_LR = 1e-6  # routing stays as it is while it is timed


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model, and how it is trained on random tokens."""

    title: str
    transformer: TransformerConfig
    sizes: Sizes
    optim: Optim = OPTIM
    kernel: KernelName = "auto"

    @property
    def step_flops(self) -> float:
        return self.transformer.cost().training_flops * self.sizes.step_tokens


def _sizes(n_layers: int, d_model: int, d_head: int) -> Sizes:
    return Sizes(
        d_model=d_model,
        d_head=d_head,
        n_layers=n_layers,
        vocab_size=2048,
        seq_len=256,
        sequences=4,
        tie_head=False,
    )


_PEER = PEERConfig(n_experts=128**2, n_heads=4, top_k=16, d_key=32)
SHAPES: Mapping[str, tuple[Sizes, FFNConfig]] = {
    "d64": (_sizes(4, 64, 16), DenseConfig()),
    "d96": (_sizes(6, 96, 16), DenseConfig()),
    "d128": (_sizes(8, 128, 32), DenseConfig()),
    "d256": (_sizes(4, 256, 32), DenseConfig()),
    "peer64": (_sizes(4, 64, 16), _PEER),
}


def arguments(parser: ArgumentParser) -> None:
    takes_overrides(parser)
    names = ",".join(SHAPES)
    parser.add_argument("--shapes", metavar="NAME,...", help=f"(default {names})")
    usable = environment.usable_cores()
    counts = (
        ("--processes", usable, f"at once (default {usable}, the usable cores)"),
        ("--rounds", 7, "of one repeat each (default 7)"),
    )
    for option, default, what in counts:
        parser.add_argument(option, type=at_least(1), metavar="N", default=default, help=what)
    seconds = f"of a repeat at least (default {_SECONDS:g})"
    parser.add_argument(
        "--seconds", type=at_least(0.001, float, 3600), default=_SECONDS, help=seconds
    )
    add_json(parser)


def run(options: Namespace) -> None:
    works = _works(options)
    check_json(options)
    n, how = options.processes, {"rounds": options.rounds, "seconds": options.seconds}
    print("\n".join([*_heading(n, options.rounds), ""]), flush=True)
    measured = (_compare(work, n, how) for work in works)
    found = [section.as_json() for section in printed(measured)]
    about = {"n_processes": n, "processor": environment.processor(), "level": _level()}
    about |= environment.describe("cpu")
    save_json(options, {"arguments": options.words, **about, "comparisons": found})


def _works(options: Namespace) -> list[Work]:
    if options.overrides and options.shapes:
        raise ValueError(f"--shapes {options.shapes} with overrides: leave out one of them")
    if options.overrides:
        return [_of_run(options.overrides)]
    names = list(SHAPES) if options.shapes is None else options.shapes.split(",")
    for name in names:
        if name not in SHAPES:
            raise ValueError(f"--shapes {name!r} is not one of {', '.join(SHAPES)}")
    check_once(names, f"--shapes {options.shapes}")
    return [
        Work(title=name, transformer=sizes.model(ffn), sizes=sizes)
        for name, (sizes, ffn) in ((name, SHAPES[name]) for name in names)
    ]


def _of_run(overrides: Sequence[str]) -> Work:
    draft = drafted(overrides)
    model, config = draft.transformer, draft.config
    sizes = Sizes(
        d_model=model.d_model,
        d_head=model.d_head,
        n_layers=len(model.ffns),
        vocab_size=model.vocab_size,
        seq_len=model.seq_len,
        sequences=config.ladder.batch_size // draft.ranks.n_micro,
        n_micro=draft.ranks.n_micro,
        tie_head=model.tie_head,
    )
    return Work(
        title=" ".join(overrides),
        transformer=model,
        sizes=sizes,
        optim=config.optim,
        kernel=config.kernel,
    )


def _heading(n: int, rounds: int) -> list[str]:
    return [
        f"{environment.processor()}, torch {torch.__version__}, kernels at {_level()}",
        f"{n} process{'es' if n > 1 else ''} at once, a thread and a core each; rates are sums",
        f"{rounds} rounds after a warm-up; {gate('cpu')}",
    ]


def _level() -> str | None:
    kernel = load_trunk()
    return None if kernel is None else kernel.level


class Training:
    """Contenders, in one of the processes: they share a model, but for jax, which copies it."""

    def __init__(self, work: Work) -> None:
        torch.manual_seed(0)
        self.work, self.notes = work, list[str]()
        self.model = work.transformer.build()
        freeze(self.model)
        batches = work.sizes.batches(_N_BATCHES)
        optimizer = build_optimizer(self.model, _LR, work.optim, work.kernel)
        clip = work.optim.grad_clip
        self.loops: dict[str, Loop] = {}
        for name in (EAGER, f"eager {_BF16}", "fused float32", f"fused {_BF16}"):
            loop = Loop(self.model, batches, optimizer, grad_clip=clip, autocast=_BF16 in name)
            if name.startswith("fused"):
                if (why := why_not_fused()) is not None:
                    self.notes.append(f"{name} is left out: {why}")
                    continue
                self.notes += [f"{name}: {loop.fuse().describe()}"]
            self.loops[name] = loop
        self.jax: JaxLoop | None = None
        if (why := why_not_jax(work.transformer, work.sizes)) is not None:
            self.notes.append(why)
        else:
            self.jax = JaxLoop(self.model, [each for (each,) in batches], _LR, work.optim)

    def contenders(self) -> list[str]:
        """Their names, the baseline first."""
        return [*self.loops, *([] if self.jax is None else [JAX])]

    def check(self) -> list[str]:
        """Notes, after all contenders were found to compute the same. Raises RuntimeError."""
        has_experts = any(layer.n_experts for layer in self.model.ffn_layers())
        allowed = _ALLOWED_OF_EXPERTS if has_experts else _ALLOWED
        passed = {name: self._passed(loop) for name, loop in self.loops.items()}
        if self.jax is not None:
            passed[JAX] = self.jax.passed()
        wanted = passed.pop(EAGER)
        found = {n: (p, allowed[_BF16 if _BF16 in n else "float32"]) for n, p in passed.items()}
        lines = [f"against {EAGER}, {line}" for line in check_passes(found, wanted)]
        return [*self.notes, *lines, *self._distinct()]

    def _passed(self, loop: Loop) -> Passed:
        loss = float(loop.backward())
        gradients = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad(set_to_none=True)
        return loss, gradients

    @torch.no_grad()
    def _distinct(self) -> Iterator[str]:
        """How many experts a batch retrieves: an untrained router might take a few, whose rows
        then stay in the cache.
        """
        for layer in self.model.ffn_layers():
            if isinstance(layer, PEER):
                seen: list[Tensor] = []
                hook = layer.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
                self.model(next(iter(self.loops.values())).batches[0][0][0])
                hook.remove()
                indices, _ = layer.route(seen[0].flatten(0, -2))
                n = len(indices.unique())
                yield f"a forward pass retrieves {n} distinct experts ({n / layer.n_experts:.0%})"

    def peak(self, bf16: bool) -> float:
        """FLOP/s of products, in this process."""
        return measured_peak_flops("cpu", bf16=bf16)

    def repeat(self, name: str, seconds: float) -> tuple[float, int, float]:
        """Steps of a contender, as sides.Repeated says."""
        loop = self.jax if name == JAX else self.loops[name]
        assert loop is not None
        return repeated(loop.step, seconds)


def _compare(work: Work, n: int, how: Mapping[str, Any]) -> Comparison:
    """how: rounds and seconds, as Sides.compare has them."""
    with Sides(n, partial(Training, work)) as sides:
        names = sides.call("contenders")[0]
        notes = sides.call("check")[0]
        peaks = _peaks(sides)
        baselines = {name: None if name == EAGER else EAGER for name in names}
        label = f"trunk, {work.title}"
        timings = sides.compare(baselines, **how, label=label)
        peaks = {kind: max(peak, peaks[kind]) for kind, peak in _peaks(sides).items()}
    rates = {t.name: n * work.step_flops / t.median for t in timings}
    shares = {
        name: rate / peaks[_BF16 if _BF16 in name else "float32"] for name, rate in rates.items()
    }
    tokens = n * work.sizes.step_tokens
    of_peak = ", ".join(f"{kind} {peak / 1e9:.0f}" for kind, peak in peaks.items())
    return Comparison(
        title=_title(work),
        shape=asdict(work.sizes),
        timings=timings,
        columns={
            "GFLOP/s": {name: rate / 1e9 for name, rate in rates.items()},
            "% of peak": {name: 100 * share for name, share in shares.items()},
            "tokens/s": {t.name: tokens / t.median for t in timings},
        },
        notes=[*notes, f"peak, GFLOP/s of square products: {of_peak}"],
        facts={"step_flops": work.step_flops, "peak_flops": peaks},
    )


def _peaks(sides: Sides) -> Mapping[str, float]:
    """FLOP/s of all processes together."""
    return {kind: sum(sides.call("peak", kind == _BF16)) for kind in ("float32", _BF16)}


def _title(work: Work) -> str:
    s = work.sizes
    layers = {type(ffn).__name__.removesuffix("Config") for ffn in work.transformer.ffns}
    return (
        f"training step, {work.title}: {' and '.join(sorted(layers))}, L={s.n_layers} "
        f"d={s.d_model} d_head={s.d_head} V={s.vocab_size}, "
        f"{s.n_micro * s.sequences} x {s.seq_len} tokens, {work.step_flops / 1e9:.3g} GFLOP"
    )
