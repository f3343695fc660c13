"""A run to look at: conf/debug. Standard library only."""

from dataclasses import dataclass
from typing import Annotated

from experiments.config.constraints import AtLeast0, AtLeast1, Matches

DEBUG_SWEEP = "debug"  # the sweep of all of them


@dataclass(frozen=True, kw_only=True)
class Debug:
    """name: of the yaml. steps: in place of the budget's; of_budget: that one, filled in.

    windows: training text of so many windows alone. anomaly: the backward pass names the operation
    that makes what is not finite, at several times the cost. profile_after: the steps after so many
    are measured.
    """

    name: Annotated[str, Matches(r"\w{1,40}", "a name, as overfit")]
    steps: AtLeast1
    anomaly: bool = False
    windows: AtLeast1 | None = None
    profile_after: AtLeast0 | None = None
    of_budget: float | None = None

    def __post_init__(self) -> None:
        if self.profile_after is not None and self.profile_after >= self.steps:
            raise ValueError(
                f"profile_after={self.profile_after} is to be below steps={self.steps}: no step "
                "would be measured"
            )
