"""A part's training loops, and how long a call of them takes."""

from collections.abc import Callable
from typing import Any

from experiments.benchmarks.core.loop import Loop, Sizes, training_loop
from experiments.benchmarks.core.timing import Contender, compare
from experiments.gpu.job import Job
from experiments.models.transformer import TransformerConfig


def make_loop(job: Job, config: TransformerConfig, sizes: Sizes, **how: Any) -> Loop:
    """Model in training on the job's device; how: as of training_loop."""
    return training_loop(config, sizes, device=job.device, kernel=job.kernel, **how)


def time_call(job: Job, call: Callable[[], object], *, rounds: int, label: str) -> float:
    """Median of a call, over that many rounds; at toy size of one."""
    (timing,) = compare(
        [Contender(name=label, make=lambda: call)],
        rounds=1 if job.toy else rounds,
        device=job.device,
        label=label,
    )
    return timing.median
