"""What a law of experts is: its variables, its problem on given runs, and what identifies it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.fitting.power_sum import non_negative

APART = np.log(1.1)  # sizes, and token counts, that a joint law takes for different ones
NOTHING = -80.0  # ln of a share of the loss: far below the last digit of what stands beside it


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What a law is fitted to, a value a run; for what the form has no term for 1, and S = 0."""

    N: Array
    E: Array
    D: Array
    G: Array
    S: Array
    loss: Array


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A form on given runs: theta's model and box, where to start, what the runs do not identify.

    fixed: names that one size, or one token count, leaves out; natural: theta (S, p) -> reported.
    """

    model: Model
    starts: Array
    lower: Array
    upper: Array
    fixed: tuple[str, ...]
    natural: Callable[[Array], Array]


class LogLoss(Protocol):
    """ln L by a form's reported parameters (..., p); S is the sparsity, the share not active."""

    def __call__(
        self,
        p: Array,
        N: Array,
        E: Array,
        D: Array | None,
        G: Array | None,
        S: Array | None = None,
    ) -> Array: ...


@dataclass(frozen=True, kw_only=True)
class Form:
    """name, formula and source of a law; log_loss takes its reported parameters (..., p).

    needs: the columns that it is in, beside a size; distinct: of N, E, D, G and S, how many numbers
    identify its parameters. A law in several variables says besides which parameters each one
    identifies (tells), and which are without effect if a coefficient is 0 (terms).
    """

    name: str
    formula: str
    source: str
    names: tuple[str, ...]
    needs: tuple[str, ...]
    distinct: Mapping[str, int]
    pose: Callable[[Runs], Problem]
    log_loss: LogLoss
    tells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def project(columns: Array, loss: Array) -> tuple[Array, Array]:
    """The coefficients >= 0 (S, k) of columns (S, k, n) nearest to the loss, and their misfit (S,).

    Nearest by relative squares, as for residuals of ln L.
    """
    weighted = columns * loss**-2
    gram, moments = weighted @ columns.transpose(0, 2, 1), weighted @ loss
    solved = non_negative(gram, moments)
    gain = 2 * (solved * moments).sum(axis=-1) - np.einsum("si,sij,sj->s", solved, gram, solved)
    return solved, len(loss) - gain
