"""A step on this card: its products' types, its waits, attention's repeats."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.core.loop import Sizes
from experiments.benchmarks.core.products import Products
from experiments.benchmarks.core.timing import best_seconds
from experiments.budget.costs import FFNConfig
from experiments.gpu import toy
from experiments.gpu.fine import fine_moe
from experiments.gpu.goals import FLOAT32_ERROR, NONE_DIFFERS
from experiments.gpu.job import Job
from experiments.gpu.timed import make_loop
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.training.deterministic import set_deterministic, strict_backward

WORTH = 95
SECONDS = 40

SIZES = Sizes(d_model=512, d_head=64, n_layers=2, vocab_size=8192, seq_len=512, sequences=8)
_HEADS = (3, 8, 16, 2048, 64)  # queries, keys, values of (batch, heads, seq, d_head)


def run(job: Job) -> None:
    """Quick questions first: a wrong answer makes all that follows worth less."""
    _float32(job)
    set_deterministic(True)
    try:
        _attention(job)
        sizes = toy.SIZES if job.toy else SIZES
        for name, ffn in _layers(job.toy).items():
            _step(job, sizes, name, ffn)
    finally:
        set_deterministic(False)


def _layers(small: bool) -> Mapping[str, FFNConfig]:
    n, d_key, n_experts = (64, 8, 8) if small else (256**2, 128, 64)
    return {
        "dense": DenseConfig(),
        "MoE, expert choice": MoEConfig(n_experts=n_experts),
        "fine MoE": fine_moe(n_experts),
        "PKM": PKMConfig(n_experts=n, n_heads=2, top_k=4, d_key=d_key),
        "PEER": PEERConfig(n_experts=n, n_heads=2, top_k=4, d_key=d_key),
    }


def _float32(job: Job) -> None:
    """Routers choose by float32 products: those of TF32 err a thousand times as far."""
    n = 64 if job.toy else 1024
    a, b = (torch.randn(n, n, device=job.device) for _ in range(2))
    exact = a.double() @ b.double()
    error = float((a @ b - exact).abs().max() / exact.abs().max())
    job.add("float32 products: error over the largest entry", error, goal=FLOAT32_ERROR)


def _attention(job: Job) -> None:
    """As training calls it, and what its repeats cost."""
    heads = torch.randn(toy.HEADS if job.toy else _HEADS, device=job.device).bfloat16()
    job.add(
        "attention: entries of gradients that two backward passes differ in",
        int((_gradient(heads) != _gradient(heads)).sum()),
        goal=NONE_DIFFERS,
    )
    seconds = {}
    for how in (True, False):
        set_deterministic(how)
        seconds[how] = best_seconds(partial(_gradient, heads), job.device)
    set_deterministic(True)
    job.add(
        "attention, forward and backward: repeating over torch's choice",
        seconds[True] / seconds[False],
        note=f"{1e3 * seconds[True]:.4g} ms, {1e3 * seconds[False]:.4g} ms",
    )


def _gradient(heads: Tensor) -> Tensor:
    leaf = heads.clone().requires_grad_()
    query, key, value = leaf.unbind()
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    with strict_backward():
        attended.float().square().mean().backward()
    assert leaf.grad is not None
    return leaf.grad


def _step(job: Job, sizes: Sizes, name: str, ffn: FFNConfig) -> None:
    """One step to make what is made once; one for its products' types and the host's waits."""
    loop = make_loop(job, sizes.model(ffn, "all"), sizes, spread=False)
    loop.step()
    with Products() as products:
        loop.step()
    flops = products.flops
    job.add(
        f"{name}: share of products in bfloat16",
        flops[torch.bfloat16] / sum(flops.values()),
        note=", ".join(f"{kind}: {n:.3g} FLOPs" for kind, n in flops.items()),
    )
    waits = _waits(job, loop.step)
    job.add(f"{name}: waits of the host for the card in a step", len(waits), note="; ".join(waits))


def _waits(job: Job, call: Callable[[], object]) -> list[str]:
    """Where the call waits, as torch warns of it; none are seen on a CPU."""
    if job.device != "cuda":
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [one for one in caught if "synchroniz" in str(one.message)]
    return [f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in waits]
