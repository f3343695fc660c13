"""Peak memory at the paper's batch (He 2024, arXiv:2407.04153) against what the plan says."""

from dataclasses import dataclass
from typing import Literal

import torch

from experiments.budget.memory import plan_memory
from experiments.gpu.goals import MEMORY_OF_PLAN
from experiments.gpu.job import Job
from experiments.gpu.loop import Loop, TableGradient, release
from experiments.gpu.steps import PAPER, TOY
from experiments.models.ffn.peer import PEERConfig
from experiments.system.environment import peak_memory


@dataclass(frozen=True, kw_only=True)
class _Way:
    gradient: TableGradient
    state: Literal["float32", "bfloat16"]


# the two of docs/performance.md, the smaller first
_WAYS = (_Way(gradient="rows", state="bfloat16"), _Way(gradient="dense", state="float32"))


def run(job: Job) -> None:
    """Two steps each: the first makes the moments, the second holds them beside gradients."""
    torch.set_float32_matmul_precision("high")
    sizes = TOY if job.toy else PAPER
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8) if job.toy else PEERConfig()
    for way in _WAYS:
        name = f"PEER, {way.gradient}, moments {way.state}"
        config = sizes.model(peer)
        plan = plan_memory(
            config.cost(),
            d_model=sizes.d_model,
            n_layers=sizes.n_layers,
            vocab_size=sizes.vocab_size,
            micro_tokens=sizes.sequences * sizes.seq_len,
            n_micro=sizes.n_micro,
            table_gradient=way.gradient,
            table_state=way.state,
        )
        # a GPU does not hold the program
        planned = plan.total - (plan.program if job.device == "cuda" else 0)
        release(job)
        try:
            _two_steps(job, way, peer)
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


def _two_steps(job: Job, way: _Way, peer: PEERConfig) -> None:
    """In a frame of its own, so that nothing of it is left when the next way begins."""
    sizes = TOY if job.toy else PAPER
    loop = Loop(sizes.model(peer), sizes, job, gradient=way.gradient, state=way.state)
    for _ in range(2):
        loop.step()
    if job.device == "cuda":
        torch.cuda.synchronize()
