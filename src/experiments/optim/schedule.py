"""How long the parts of a learning-rate schedule are; its rates are records.schedule's."""

from collections.abc import Sequence

from experiments.config.constraints import shown
from experiments.config.optim import Optim
from experiments.config.schedules import TRUNK


def step_of_stage(step: int, stage_steps: Sequence[int]) -> tuple[int, int]:
    """Step within its stage, and how many the stage has; after the last, still the last's."""
    for n_steps in stage_steps[:-1]:
        if step < n_steps:
            return step, n_steps
        step -= n_steps
    return step, stage_steps[-1]


def warmup_steps(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """Warm-up of a run, or stage, of n_steps; at least 1."""
    return _steps(optim.warmup, optim.warmup_tokens, n_steps, batch_tokens)


def decay_steps(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """Decay of a wsd run, or stage, of n_steps; at least 1."""
    return _steps(optim.decay, optim.decay_tokens, n_steps, batch_tokens)


def _steps(share: float, tokens: float | None, n_steps: int, batch_tokens: int) -> int:
    return max(1, round(share * n_steps if tokens is None else tokens / batch_tokens))


def start_step(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """Steps that a branch leaves to its trunk: all but one before the decay, for a checkpoint
    holds the rate of the step after it, and that must be the trunk's rate still.
    """
    return n_steps - decay_steps(optim, n_steps, batch_tokens) - 1


def check_steps(optim: Optim, budget: float, n_steps: int, batch_tokens: int) -> None:
    """Raises ValueError if warm-up and decay in tokens are longer than the run, or a branch has
    no trunk before them.
    """
    given = {
        name: tokens
        for name, tokens in (
            ("optim.warmup_tokens", optim.warmup_tokens),
            ("optim.decay_tokens", optim.decay_tokens),
        )
        if tokens is not None
    }
    if not given or optim.schedule == TRUNK:
        return
    n_warmup = warmup_steps(optim, n_steps, batch_tokens)
    n_decay = decay_steps(optim, n_steps, batch_tokens) if optim.schedule == "wsd" else 0
    start = n_steps - n_decay - 1
    none_left = optim.branch_from is not None and start < 1
    if n_warmup + n_decay <= n_steps and not none_left:
        return
    tokens = " and ".join(f"{name}={shown(value)}" for name, value in given.items())
    decays = f" and {n_decay} of decay" if n_decay else ""
    why = ", which leave no step to a trunk" if n_warmup + n_decay <= n_steps else ""
    raise ValueError(
        f"budget={budget:g} is {n_steps} steps of {batch_tokens} tokens, and {tokens} "
        f"ask for {n_warmup} steps of warm-up{decays}{why}; lower them, or raise budget"
    )
