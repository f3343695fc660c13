"""A law of the loss: its formula, the variables it is in, and how a fit of it starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model

APART = np.log(1.1)  # sizes, and token counts, that a law that `tells` takes for different ones
NOTHING = -80.0  # ln of a share of the loss: far below the last digit of what stands beside it
COLUMNS = {  # of tables
    "E": "n_experts",
    "D": "n_tokens",
    "G": "granularity",
    "S": "sparsity",
    "U": "unique_tokens",
}

Centre = Mapping[str, float]  # variable -> the mean of its logarithm over the runs of a fit


@dataclass(frozen=True, kw_only=True)
class Variables:
    """Variables of laws, arrays of one shape; 1, and S = 0, for what a law has no term for.

    N: a size in parameters; D: tokens; E: the number of experts; G: granularity; S: sparsity, the
    share of the experts that a token does not use; U: unique tokens, infinite where all are new.
    """

    N: Array
    D: Array
    E: Array
    G: Array
    S: Array
    U: Array

    @classmethod
    def of(
        cls,
        N: ArrayLike,
        D: ArrayLike = 1,
        E: ArrayLike = 1,
        G: ArrayLike = 1,
        S: ArrayLike = 0,
        U: ArrayLike = np.inf,
    ) -> Self:
        """Makes them of numbers and arrays that can be of one shape."""
        columns = (np.asarray(v, dtype=np.float64) for v in (N, D, E, G, S, U))
        return cls(**dict(zip("NDEGSU", np.broadcast_arrays(*columns), strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.N.shape

    def flat(self) -> Self:
        return type(self)(**{letter: getattr(self, letter).ravel() for letter in "NDEGSU"})

    def only(self, keep: np.ndarray) -> Self:
        """Those of some places: indices, or a mask."""
        return type(self)(**{letter: getattr(self, letter)[keep] for letter in "NDEGSU"})

    def log(self, letter: str) -> Array:
        """ln of a variable; of 1 - S for S."""
        return np.log(1 - self.S if letter == "S" else getattr(self, letter))

    def centre(self) -> dict[str, float]:
        return {letter: float(self.log(letter).mean()) for letter in "NDEGS"}


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where the descent begins, (S, p), and the box it stays in, (p,)."""

    starts: Array
    lower: Array
    upper: Array


@dataclass(frozen=True, kw_only=True)
class Law:
    """A form of L, in nats/token. A fit moves theta, from which `natural` makes what is reported.

    names: of the parameters; variables: the letters of Variables that it is in, N first.
    model: the variables and their centre -> theta's model of ln L, with its derivatives.
    start: the variables, their centre, the loss, and the names that are not fitted -> Start.
    natural: theta (S, p) and the centre -> the reported parameters (S, p).
    logs: names of reported parameters that are above 0, as exponentials of theta are.

    What the runs must be to identify the parameters:
    distinct: variable -> how many of its values; left_out: variable -> the parameters that are not
    fitted where it has one value, and are reported as 0; tells: variable -> the parameters that it
    identifies: with it, runs whose variables follow from each other are refused by these names;
    terms: coefficient -> the parameters without effect if it is 0; condition_limit: above it, the
    condition number of the Jacobian is a warning.
    bends: whether exponents change over the runs, so that what they are beyond is another question.
    has_floor: whether it has an irreducible loss.
    at_bound: (name, whether at the upper one) -> what it says of the runs that the fit stopped at
    this bound; {value} in it is the parameter there.
    """

    name: str
    formula: str
    source: str
    names: tuple[str, ...]
    variables: str
    model: Callable[[Variables, Centre], Model]
    start: Callable[[Variables, Centre, Array, tuple[str, ...]], Start]
    natural: Callable[[Array, Centre], Array]
    logs: tuple[str, ...] = ()
    distinct: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    terms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    at_bound: Mapping[tuple[str, bool], str] = field(default_factory=dict)
    bends: bool = False
    has_floor: bool = True
    # 24 to 55 on Clark's runs (105 with two sizes only), 110 at most on clean grids of sizes and
    # experts and 230 of granularity; 360 to 40,000 where the experts are 8 at most, 64 at least, or
    # 4 to 7, where Clark's saturation is not identifiable
    condition_limit: float = 1e3

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Columns of a table that it is in, beside a size."""
        return tuple(name for letter, name in COLUMNS.items() if letter in self.variables)

    @property
    def of_size_and_tokens(self) -> bool:
        """Whether it is in these two alone, or in which of the tokens are new too: a surface."""
        return {"N", "D"} <= set(self.variables) <= {"N", "D", "U"}

    def not_fitted(self, at: Variables) -> tuple[str, ...]:
        """Parameters that these runs leave out, because a variable has one value."""
        apart = APART if self.tells else 1e-9
        one = [letter for letter in self.left_out if np.ptp(at.log(letter)) < apart]
        return tuple(name for letter in one for name in self.left_out[letter])


def held(names: tuple[str, ...], fixed: tuple[str, ...], box: Array) -> Array:
    """A box (2, p) with 0 alone for the names that are not fitted."""
    return np.where(np.isin(names, fixed), 0.0, box)


def floor_texts(name: str, at_top: str) -> dict[tuple[str, bool], str]:
    """Meaning of an irreducible loss that stopped at a bound; at_top: at the lowest loss."""
    return {
        (name, False): f"{name} stopped at 0: an irreducible loss is not identifiable from these "
        "runs",
        (name, True): f"{name} stopped at the lowest loss{at_top}",
    }
