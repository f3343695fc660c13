"""Batches of one domain after another, with a share of old text among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from experiments.data.batches import SteppedBatches, n_windows, window_indices
from experiments.data.packed import Tokens

_DRAWS = 1  # beside the seed: what is drawn is independent of the order of windows


@dataclass(frozen=True, kw_only=True)
class Stage:
    """n_steps of text from sources, each with its share of the windows; usually one."""

    n_steps: int
    sources: Sequence[Tokens]
    shares: Sequence[float] = (1.0,)


class StagedBatches(SteppedBatches):
    """Batches of the stages, one after another; after the last stage it goes on.

    A window is of `old` text with probability `replay`, and else of the stage's. A stage of one
    source takes its windows in epochs of shuffled windows; old text, and the sources of a stage
    that has several, are drawn with replacement. All is a function of (seed, step), so that a run
    that is taken up again has the same batches.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        old: Tokens | None = None,
        replay: float = 0.0,
        **place: int,
    ) -> None:
        super().__init__(**place)
        self.stages, self.old, self.replay = stages, old, replay
        self.ends = list(accumulate(stage.n_steps for stage in stages))

    def batch(self, step: int) -> np.ndarray:
        """Draws for all ranks together."""
        k = min(int(np.searchsorted(self.ends, step, side="right")), len(self.stages) - 1)
        stage, local = self.stages[k], step - (self.ends[k] - self.stages[k].n_steps)
        draw = np.random.default_rng([self.seed, _DRAWS, step])
        is_old = draw.random(self.batch_size) < (self.replay if self.old is not None else 0.0)
        which = draw.choice(len(stage.sources), self.batch_size, p=np.array(stage.shares))
        positions = draw.random(self.batch_size)  # in a text that is drawn from
        in_order = None
        if len(stage.sources) == 1:
            n = self._n(stage.sources[0])
            in_order = window_indices(self.seed + k, local, self.batch_size, n)
        rows = []
        for i in range(self.rank, self.batch_size, self.world_size):
            source = self.old if is_old[i] else stage.sources[which[i]]
            assert source is not None
            window = int(positions[i] * self._n(source))
            if in_order is not None and not is_old[i]:
                window = int(in_order[i])
            start = window * self.seq_len
            rows.append(source[start : start + self.seq_len + 1])
        return np.stack(rows)

    def _n(self, source: Tokens) -> int:
        return n_windows(len(source), self.seq_len)
