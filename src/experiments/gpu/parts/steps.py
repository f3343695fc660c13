"""Training steps of PEER and PKM at dense's FLOPs, their queries made so wide."""

from collections.abc import Callable
from dataclasses import replace

from experiments.benchmarks.core.loop import Sizes, TableGradient, at_equal_flops
from experiments.benchmarks.core.memory import release
from experiments.budget.costs import FFNConfig
from experiments.gpu import toy
from experiments.gpu.goals import STEP_OVER_DENSE, Goal
from experiments.gpu.job import Job
from experiments.gpu.timed import make_loop, time_call
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig

WORTH = 70
SECONDS = 60

PAPER = Sizes(  # conf/ladder/paper.yaml at size=8, in the micro-batches of docs/kernels.md
    d_model=1024,
    d_head=128,
    n_layers=8,
    vocab_size=32000,
    seq_len=2048,
    sequences=8,
    n_micro=16,
)


def _layers(small: bool) -> dict[str, Callable[[int], FFNConfig]]:
    """By the width of a query: conf/model/peer.yaml's and pkm.yaml's sizes."""
    n, heads = (64, 1) if small else (1024**2, 8)
    of_peer, of_pkm = (2, 2) if small else (16, 32)
    return {
        "PEER": lambda d: PEERConfig(n_experts=n, n_heads=heads, top_k=of_peer, d_key=d),
        "PKM": lambda d: PKMConfig(n_experts=n, n_heads=heads, top_k=of_pkm, d_key=d),
    }


def run(job: Job) -> None:
    """At the paper's batch, which the goal is for; then at one micro-batch a step."""
    sizes = toy.SIZES if job.toy else PAPER
    small = replace(sizes, n_micro=1)
    configs = {name: at_equal_flops(make, sizes) for name, make in _layers(job.toy).items()}
    plan: list[tuple[Sizes, str, TableGradient, Goal | None]] = [
        (sizes, "PEER", "rows", STEP_OVER_DENSE),
        (sizes, "PKM", "rows", STEP_OVER_DENSE),
        (sizes, "PEER", "dense", None),
        (small, "PEER", "fused", None),
        (small, "PKM", "fused", None),
        (small, "PEER", "rows", None),
    ]
    dense: dict[Sizes, float] = {}
    for size, name, gradient, goal in plan:
        if size not in dense:
            dense[size] = _seconds(job, size, DenseConfig(), "dense")
            job.add(f"dense: a step of {size.step_tokens:,} tokens", 1e3 * dense[size], "ms")
        config, d_key = configs[name]
        seconds = _seconds(job, size, config, gradient)
        flops = size.model(config).cost().training_flops
        share = flops / size.model(DenseConfig()).cost().training_flops
        job.add(
            f"{name}, {gradient}: a step of {size.step_tokens:,} tokens over dense's",
            seconds / dense[size],
            goal=goal,
            note=f"{1e3 * seconds:.4g} ms; d_key={d_key}, {share:.4f} of dense's FLOPs",
        )


def _seconds(job: Job, sizes: Sizes, ffn: FFNConfig, gradient: TableGradient) -> float:
    loop = make_loop(job, sizes.model(ffn), sizes, gradient=gradient)
    seconds = time_call(job, loop.step, rounds=3, label=f"{type(ffn).__name__} {gradient}")
    del loop
    release(job.device)
    return seconds
