"""From a budget to a run: tokens, steps, learning rate, memory and time. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.budget.costs import Cost
from experiments.budget.memory import Memory

TOLERANCE = 0.01  # planned FLOPs may be this far from the budget, for whole steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Plan of one run. FLOPs are training FLOPs; lr is the peak rate of the backbone.

    epochs is None while the corpus has not been tokenized here, and of a stream. stage_steps: of a
    stream, the steps of each stage, n_steps in all; each has a schedule of its own. lr_from: the
    law that the rate is from, where it was asked for just now.
    """

    cost: Cost
    batch_tokens: int
    n_steps: int
    lr: float
    memory: Memory
    epochs: float | None = None
    stage_steps: tuple[int, ...] = ()
    lr_from: str = ""

    @property
    def n_tokens(self) -> int:
        """Training tokens, repeats included."""
        return self.n_steps * self.batch_tokens

    @property
    def planned_flops(self) -> float:
        """Training FLOPs of all the steps."""
        return self.count_flops(self.n_steps)

    def count_flops(self, n_steps: int) -> float:
        """Training FLOPs of so many steps."""
        return n_steps * self.batch_tokens * self.cost.training_flops


class OffBudgetError(ValueError):
    """Whole steps can't meet the budget to 1 %: a smaller batch might, so it is checked last."""

    def __init__(self, why: str, short: str) -> None:
        super().__init__(why)
        self.short = short  # "6 steps, -3.4 %"


def plan_steps(budget: float, flops_per_token: float, batch_tokens: int) -> int:
    """Whole optimizer steps whose training FLOPs come nearest to the budget.

    Raises OffBudgetError if the budget does not pay for one step, or if whole steps miss it by
    more than 1 %.
    """
    per_step = flops_per_token * batch_tokens
    n_steps = round(budget / per_step)
    if n_steps < 1:
        raise OffBudgetError(
            f"budget={budget:g} FLOPs is below one step: {batch_tokens} tokens of "
            f"{flops_per_token:.3g} FLOPs make {per_step:.3g}; "
            "raise budget, or lower size or ladder.batch_size",
            f"below one step of {per_step:.3g}",
        )
    miss = n_steps * per_step / budget - 1
    if abs(miss) > TOLERANCE:
        raise OffBudgetError(
            f"budget={budget:g} FLOPs: {n_steps} whole steps of {per_step:.3g} miss it by "
            f"{100 * miss:+.1f} %, and 1 % is allowed; lower ladder.batch_size, or set "
            f"budget={n_steps * per_step:.6g}",
            f"{n_steps} step{'s' if n_steps > 1 else ''}, {100 * miss:+.1f} %",
        )
    return n_steps


def peak_lr(lr: float, lr_d_model: int, exponent: float, d_model: int) -> float:
    """lr at width lr_d_model, scaled by (lr_d_model / d_model)**exponent."""
    return lr * (lr_d_model / d_model) ** exponent


def check_memory(needed: int, available: int | None, what: str) -> None:
    """Raises ValueError if `needed` bytes exceed what the machine has; None means unknown."""
    if available is not None and needed > available:
        raise ValueError(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory and there are "
            f"{available / 2**30:.1f} GiB; lower n_experts, size, n_workers, or set "
            "trainer.micro_batch_size, optim.table_gradient=rows, optim.table_state=bfloat16 or of "
            "several processes, trainer.table_ranks=all"
        )


def format_shares(shares: Mapping[str, float], n: int = 4) -> str:
    """Largest n FLOP terms, e.g. 'head 41 %, attention.projections 22 %'."""
    top = list(shares.items())[:n]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in top)


def format_memory(memory: Memory, unit: int = 2**30) -> str:
    """Addends in units of that many bytes: 'weights 8.0, gradients 8.0, moments 16.0, ...'; and
    what their sum is more than the peak, or less.
    """
    parts = {name: size for name, size in memory.parts().items() if size and name != "apart"}
    said = [f"{name} {size / unit:.1f}" for name, size in parts.items()]
    if memory.apart > 0:
        said.append(f"less {memory.apart / unit:.1f} that is never held at once")
    elif memory.apart < 0:
        said.append(f"{-memory.apart / unit:.1f} more while halves of blocks are computed again")
    return ", ".join(said)
