"""Which runs a law is not to see, to be asked of them afterwards."""

import numpy as np

from analysis.fitting.intervals import Array

_TIE = 1e-9  # relative: products of the same two numbers


def largest(values: Array, share: float) -> np.ndarray:
    """Whether each is one of the largest: at most this share of them, ties all or none.

    The largest value and its ties, e.g. all runs of one budget, even if they are more than the
    share, but not more than half: then there are none.
    """
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    ends = np.flatnonzero(ordered[:-1] > ordered[1:] * (1 + _TIE)) + 1  # of groups but the last
    if not len(ends) or ends[0] > len(values) / 2:
        return np.zeros(len(values), dtype=bool)
    count = max([ends[0], *(end for end in ends if end <= share * len(values))])
    out = np.zeros(len(values), dtype=bool)
    out[order[:count]] = True
    return out
