"""How many steps a turn of Lightning's loop takes.

Such a turn costs a millisecond for its hooks, contexts and counters, which is what a whole step of
a small model takes. So a turn takes the steps of a tenth of a second, and fewer where a callback
has to hear of a step. What callbacks then do, and what a checkpoint holds, is the same.
"""

import time
from collections.abc import Callable

from experiments.system import interruption

_SECONDS = 0.1  # what looks at the clock does so every second at most


class Turns:
    """Says which step ends a turn: a row of history, the last step, what is due by `is_due`, and a
    signal do. every_step: each does, as where several ranks talk between steps.
    """

    def __init__(
        self, *, every: int, n_steps: int, is_due: Callable[[int], bool], every_step: bool
    ) -> None:
        self.every, self.n_steps, self.is_due = every, n_steps, is_due
        self.every_step = every_step
        self._began = 0.0

    def begin(self) -> None:
        """A turn."""
        self._began = time.monotonic()

    def is_over(self, step: int) -> bool:
        """Whether it ends with so many steps taken."""
        return (
            self.every_step
            or step % self.every == 0
            or step >= self.n_steps
            or time.monotonic() - self._began > _SECONDS
            or interruption.received() is not None
            or self.is_due(step)
        )
