"""A run's loss and learning rate over its steps, and the sums of the rate that laws are made of.

Sums are in steps, with the rate as it is: S1 is the sum of the rate over the steps so far (Tissue
2024, arXiv:2408.11029, Sec. 3; Luo 2025, arXiv:2503.12811, Eq. 1). Between rows the rate is taken
as linear in the step, and before the first as linear from 0 at step 0: a warm-up.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

from analysis.fitting.intervals import Array

_RISEN = 1 - 1e-3  # of the peak: the warm-up has ended
_N_DROPS = 48  # parts that a decay is cut into
_GRID = 21  # memories at which the momentum's sum is known
_MOST_STEPS = 10_000_000  # of a run: sums go over each
_SHORTEST = 2.0  # steps of memory


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """step, rate, loss: (n,); steps rise, rates are above 0 somewhere, losses are nats/token or of
    whatever unit the run's others have. A loss may be nan where the run is only a schedule.
    """

    run: str
    series: str
    step: Array
    rate: Array
    loss: Array

    @property
    def peak(self) -> float:
        return float(self.rate.max())

    @property
    def risen(self) -> float:
        """Step at which the warm-up has ended: the first at the peak."""
        return float(self.step[int(np.argmax(self.rate >= self.peak * _RISEN))])

    @property
    def decays(self) -> bool:
        """Whether the rate falls after the warm-up, by a hundredth of its peak or more, before
        the last row: a fall in the last row has no loss after it.
        """
        after = self.rate[self.step >= self.risen][:-1]
        return bool(len(after) and after.min() < 0.99 * self.peak)

    def pooled(self, start: float, n_parts: int) -> "History":
        """From the step `start` on, means over at most n_parts equal parts of the rows."""
        kept = np.flatnonzero(self.step > start)
        parts = np.array_split(kept, min(n_parts, len(kept)))
        mean = {
            name: np.array([getattr(self, name)[part].mean() for part in parts])
            for name in ("step", "rate", "loss")
        }
        return History(run=self.run, series=self.series, **mean)


def check_steps(n_steps: float, what: str) -> None:
    """Raises ValueError, of `what`, for more steps than a run has."""
    if n_steps > _MOST_STEPS:
        raise ValueError(
            f"{what}: {n_steps:.4g} steps are more than {_MOST_STEPS:,}: are they tokens? Give the "
            "optimizer's steps"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Sums of a history at `step` (n,), steps of its, the rate in units of `unit`.

    forward: S1, (n,). momentum: S2 at memories (g,) of so many steps, (g, n), see `momentum_sums`.
    drops: (k,), parts of the fall of the rate, a rise being negative; at: S1 before each, (k,); to:
    the rate after it, (k,).
    """

    step: Array
    forward: Array
    memories: Array
    momentum: Array
    drops: Array
    at: Array
    to: Array


def compute_sums(history: History, step: Array, unit: float, longest: float) -> Sums:
    """At steps (n,) of a history, which it reaches; longest: the longest memory, in steps."""
    s = np.concatenate([[0.0], history.step]) if history.step[0] > 0 else history.step
    rate = np.concatenate([[0.0], history.rate]) if history.step[0] > 0 else history.rate
    rate = rate / unit
    areas = np.concatenate([[0.0], np.cumsum(np.diff(s) * (rate[1:] + rate[:-1]) / 2)])
    inside = np.interp(step, s, rate)
    left = np.searchsorted(s, step, side="right") - 1
    # a sum is its area and half of the last (Euler and Maclaurin)
    forward = areas[left] + (step - s[left]) * (rate[left] + inside) / 2 + inside / 2

    memories = np.geomspace(_SHORTEST, max(longest, 4 * _SHORTEST), _GRID)
    whole = np.arange(int(np.ceil(s[-1])) + 1, dtype=np.float64)
    per_step = np.interp(whole, s, rate)
    fall = -np.diff(per_step, prepend=per_step[0])
    fall[whole <= history.risen] = 0.0
    momentum = np.stack(
        [np.interp(step, whole, momentum_sums(fall, memory)) for memory in memories]
    )
    drops, where = _parts(whole, fall)
    after = np.interp(where, s, rate)
    low = np.searchsorted(s, where, side="right").clip(1, len(s)) - 1
    at = areas[low] + (where - s[low]) * (rate[low] + after) / 2 - after / 2
    floor = 1e-6  # of the peak: a rate of 0 has no power below 0
    return Sums(
        step=step,
        forward=forward,
        memories=memories,
        momentum=momentum,
        drops=drops,
        at=at,
        to=np.maximum(after, floor),
    )


def momentum_sums(fall: Array, memory: float) -> Array:
    """S2 of every step: the sum of m_i = lambda m_(i-1) + fall_i up to it, with lambda =
    1 - 1/memory. Tissue 2024, arXiv:2408.11029, Eq. 2: S2 = sum_i sum_(k <= i) (rate_(k-1) -
    rate_k) lambda^(i-k). Deviation: falls count from the end of the warm-up on.
    """
    return np.cumsum(lfilter([1.0], [1.0, -(1.0 - 1.0 / memory)], fall))


def _parts(step: Array, fall: Array) -> tuple[Array, Array]:
    """Fall of the rate in at most _N_DROPS parts of about equal change, and the step of each:
    its middle, by change.
    """
    change = np.cumsum(np.abs(fall))
    if not change[-1] > 0:
        return np.zeros(0), np.zeros(0)
    part = np.minimum(_N_DROPS - 1, (change / change[-1] * _N_DROPS - 1e-9).astype(int)).clip(0)
    weight = np.bincount(part, np.abs(fall), _N_DROPS)
    drops: Array = np.bincount(part, fall, _N_DROPS).astype(np.float64)
    middle = np.bincount(part, np.abs(fall) * step, _N_DROPS)
    kept = weight > 0
    return drops[kept], middle[kept] / weight[kept]
