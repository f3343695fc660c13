"""Whether a law misses its runs in a pattern: they then have another form."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.pattern import LEAST, find_pattern, near_each_other
from analysis.laws.law import Variables

_NEAR = 0.2  # of a variable's range, on the log scale
_ROUNDING = 1e-6  # of ln L: scatter below it is no noise
_MOST = 1000  # runs: beyond, the test would take minutes


def misses_in_a_pattern(
    letters: str, at: Variables, off: Array, jacobian: Array, loss: Array
) -> str | None:
    """Why a law in these variables does not describe its runs, in words; None if it does.

    off: (n,), what the law's ln L is above that of the runs; jacobian: (n, p), how its free
    parameters move it. Of 1,000 runs at most.
    """
    n, p = jacobian.shape
    if not LEAST <= n - p <= _MOST - p or float(np.sqrt(np.mean(off**2))) < _ROUNDING:
        return None
    kernel = near_each_other((at.log(letter) for letter in letters), _NEAR)
    scatter = float(np.sqrt(off @ off / (n - p)))
    found = find_pattern(off / scatter, jacobian, kernel)
    if not found.is_lack:
        return None
    typical = scatter * float(np.sqrt(np.mean((found.missed * loss) ** 2)))
    return (
        f"this law misses the runs in a pattern, by about {typical:.2g} nats "
        f"(p={found.chance:.1g}): their losses have another form, so its parameters and "
        "extrapolations may be off by more than the intervals say"
    )
