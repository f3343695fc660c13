"""Learning-rate schedules as pure functions of the step. Standard library only."""

import math
from collections.abc import Sequence


def lr_factor(
    step: int, n_steps: int, *, kind: str, warmup: float, decay: float, final: float
) -> float:
    """The learning rate of a step (from 0) as a fraction of the peak.

    warmup and decay are fractions of n_steps, final a fraction of the peak.
    cosine: linear to 1, then half a cosine down to final (Hoffmann 2022, arXiv:2203.15556, App. B).
    wsd: linear to 1, flat, then linear to final over the last `decay` (Hu 2024, arXiv:2404.06395).
    """
    n_warmup = max(1, round(warmup * n_steps))
    if step < n_warmup:
        return (step + 1) / n_warmup
    if kind == "wsd":
        n_decay = max(1, round(decay * n_steps))
        left = min(1.0, max(0.0, (n_steps - 1 - step) / n_decay))
        return final + (1 - final) * left
    progress = (step - n_warmup) / max(1, n_steps - 1 - n_warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def step_of_stage(step: int, stage_steps: Sequence[int]) -> tuple[int, int]:
    """The step within its stage, and how many the stage has; after the last, still the last's."""
    for n_steps in stage_steps[:-1]:
        if step < n_steps:
            return step, n_steps
        step -= n_steps
    return step, stage_steps[-1]
