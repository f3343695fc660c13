"""Learning-rate schedules as pure functions of the step, for training and for laws of curves."""

import math

from experiments.config.schedules import TRUNK


def lr_factor(
    step: int,
    n_steps: int,
    *,
    kind: str,
    n_warmup: int,
    n_decay: int,
    final: float,
    shape: str = "linear",
    power: float = 0.0,
) -> float:
    """Learning rate of a step (from 0) as a fraction of the peak.

    n_warmup and n_decay in steps, at least 1 each; final as a fraction.
    cosine: linear to 1, then half a cosine down to final (Hoffmann 2022, arXiv:2203.15556, App. B).
    wsd: linear to 1, flat, then linear to final over the last n_decay (Hu 2024, arXiv:2404.06395);
    shape 1-sqrt: by 1 - sqrt(share of the decay) instead (Haegele 2024, arXiv:2405.18392, Sec. 4).
    With a power, what is flat falls as (step / n_warmup)**-power, and final is a fraction of it.
    trunk: wsd without an end. Up to its decay wsd is the same to the bit, whatever n_steps.
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    if kind == "cosine":
        progress = (step - n_warmup) / max(1, n_steps - 1 - n_warmup)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    flat = ((step + 1) / n_warmup) ** -power
    left = max(0.0, (n_steps - 1 - step) / n_decay)
    if kind == TRUNK or left >= 1:
        return flat
    if shape == "1-sqrt":
        left = 1 - math.sqrt(1 - left)
    return flat * (final + (1 - final) * left)
