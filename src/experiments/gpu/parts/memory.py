"""Paper's batch (He 2024, arXiv:2407.04153): peak memory against the plan."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from experiments.benchmarks.core.loop import OPTIM, Sizes, TableGradient
from experiments.benchmarks.core.memory import release
from experiments.budget.memory import plan_memory
from experiments.gpu import toy
from experiments.gpu.goals import MEMORY_OF_PLAN
from experiments.gpu.job import Job
from experiments.gpu.parts.steps import PAPER
from experiments.gpu.timed import make_loop
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.memory import moment_bytes
from experiments.system.device import peak_memory

WORTH = 50
SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class _Way:
    gradient: TableGradient
    state: Literal["float32", "bfloat16"]


# the two of docs/performance.md, the smaller first
_WAYS = (_Way(gradient="rows", state="bfloat16"), _Way(gradient="dense", state="float32"))


def run(job: Job) -> None:
    """Two steps each: the first makes the moments, the second holds them beside gradients."""
    sizes, peer = (toy.SIZES, toy.PEER) if job.toy else (PAPER, PEERConfig())
    for way in _WAYS:
        name = f"PEER, {way.gradient}, moments {way.state}"
        config = sizes.model(peer)
        optim = replace(OPTIM, table_gradient=way.gradient, table_state=way.state)
        plan = plan_memory(
            config.cost(),
            config.block_costs(),
            d_model=sizes.d_model,
            vocab_size=sizes.vocab_size,
            micro_tokens=sizes.sequences * sizes.seq_len,
            n_micro=sizes.n_micro,
            precision="bf16-mixed",
            table_gradient=way.gradient,
            moments=moment_bytes(optim, config),
        )
        # a GPU does not hold the program
        planned = plan.total - (plan.program if job.device == "cuda" else 0)
        release(job.device)
        try:
            _two_steps(job, config, sizes, way)
        except torch.cuda.OutOfMemoryError as error:
            first = str(error).partition(". ")[0]
            job.note(**{name: f"out of memory, planned {planned / 2**30:.1f} GiB: {first}"})
            continue
        peak = peak_memory(job.device)
        job.add(
            f"{name}: peak memory over the plan's",
            peak / planned,
            goal=MEMORY_OF_PLAN,
            note=f"{peak / 2**30:.1f} GiB, planned {planned / 2**30:.1f}",
        )


def _two_steps(job: Job, config: TransformerConfig, sizes: Sizes, way: _Way) -> None:
    """In a frame of its own, so that nothing of it is left when the next way begins."""
    loop = make_loop(job, config, sizes, gradient=way.gradient, state=way.state)
    for _ in range(2):
        loop.step()
    if job.device == "cuda":
        torch.cuda.synchronize()
