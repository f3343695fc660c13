"""Trunks and branches: the steps before the decay, trained once for runs of many budgets.

A run with optim.schedule=wsd and optim.warmup_tokens is, up to its decay, the same run whatever its
budget: weights, moments, order of the text, random numbers and rates, to the bit. A trunk
(optim.schedule=trunk) takes these steps once, and keeps a checkpoint where each branch starts. A
branch (optim.branch_from) goes on from there and decays: Haegele 2024 (arXiv:2405.18392), Sec. 4.

A trunk has every setting of its branches but the budget and the decay, and its id leaves these out
(identity.py). So a larger budget goes on with the same trunk, where that had ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.optim import Optim
from experiments.config.schema import RunConfig
from experiments.data.prepare import stages_of

TRUNK = "trunk"  # optim.schedule of a trunk, and optim.branch_from where the sweep trains it


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a run leaves its trunk: after n_steps. folder: the trunk's."""

    trunk_id: str
    folder: Path
    n_steps: int


def warmup_steps(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """Of a run, or stage, of n_steps; at least 1."""
    return _steps(optim.warmup, optim.warmup_tokens, n_steps, batch_tokens)


def decay_steps(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """Of a wsd run, or stage, of n_steps; at least 1."""
    return _steps(optim.decay, optim.decay_tokens, n_steps, batch_tokens)


def _steps(share: float, tokens: float | None, n_steps: int, batch_tokens: int) -> int:
    return max(1, round(share * n_steps if tokens is None else tokens / batch_tokens))


def start_step(optim: Optim, n_steps: int, batch_tokens: int) -> int:
    """The steps that a branch leaves to its trunk: all but one before the decay, for a checkpoint
    holds the rate of the step after it, and that must be the trunk's rate still.
    """
    return n_steps - decay_steps(optim, n_steps, batch_tokens) - 1


def check_steps(config: RunConfig, n_steps: int, batch_tokens: int) -> None:
    """Raises ValueError if warm-up and decay in tokens are longer than the run, or a branch has
    no trunk before them.
    """
    optim = config.optim
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
        f"budget={config.budget:g} is {n_steps} steps of {batch_tokens} tokens, and {tokens} "
        f"ask for {n_warmup} steps of warm-up{decays}{why}; lower them, or raise budget"
    )


def check_branch(config: RunConfig) -> None:
    """Raises ValueError for what a trunk and its branches can't be."""
    optim = config.optim
    if optim.branch_from is None and optim.schedule != TRUNK:
        return
    what = (
        "optim.schedule=trunk"
        if optim.branch_from is None
        else f"optim.branch_from={optim.branch_from}"
    )
    if config.init is not None or config.continual is not None:
        raise ValueError(
            f"{what} with weights to start from: a trunk starts from random weights, for what is "
            "grown or kept may depend on the budget; set init=none and continual=none"
        )
    if stages_of(config.data):
        raise ValueError(f"{what} with data=stream: each of its stages decays; set another data")


def trunk_raw(raw: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """The config of a branch's trunk, as long as a budget in training FLOPs says."""
    optim = {**raw["optim"], "schedule": TRUNK, "branch_from": None}
    return {**raw, "budget": budget, "optim": optim}
