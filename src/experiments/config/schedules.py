"""Rules between the parts of a learning-rate schedule (config.schema.Optim)."""

from typing import Protocol

TRUNK = "trunk"  # optim.schedule of a trunk, and optim.branch_from where the sweep trains it


class Schedule(Protocol):
    """Fields of Optim that say how the rate runs; schema.py documents them."""

    @property
    def schedule(self) -> str: ...
    @property
    def warmup(self) -> float: ...
    @property
    def decay(self) -> float: ...
    @property
    def warmup_tokens(self) -> float | None: ...
    @property
    def decay_tokens(self) -> float | None: ...
    @property
    def branch_from(self) -> str | None: ...


def check_schedule(optim: Schedule) -> None:
    """Raises ValueError for parts that don't go together. Whether steps and tokens do is known
    once the run has steps (optim/schedule.py).
    """
    kind = optim.schedule
    in_shares = optim.warmup_tokens is None and optim.decay_tokens is None
    if kind == "wsd" and in_shares and optim.warmup + optim.decay > 1:
        raise ValueError(
            f"warmup={optim.warmup:g} and optim.decay={optim.decay:g} with optim.schedule=wsd "
            "are more than all steps; their sum must be at most 1"
        )
    if optim.branch_from is not None and kind != "wsd":
        raise ValueError(
            f"branch_from={optim.branch_from} with optim.schedule={kind}: a branch is a run that "
            "decays from a trunk; set optim.schedule=wsd"
        )
    if optim.warmup_tokens is None and (optim.branch_from is not None or kind == TRUNK):
        what = "schedule=trunk" if kind == TRUNK else f"branch_from={optim.branch_from}"
        raise ValueError(
            f"{what} with optim.warmup_tokens=null: a share of the steps is another warm-up for "
            "each budget, and one trunk has one; set optim.warmup_tokens"
        )
