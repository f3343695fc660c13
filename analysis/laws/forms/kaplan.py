"""((A/N)^(alpha/beta) + B/D)^beta: Kaplan 2020 (arXiv:2001.08361), eq. 1.5; it has no floor."""

from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Law, Start, Variables

_EXPONENTS = (0.03, 0.07, 0.12, 0.2, 0.35)
_SHARES = (0.2, 0.5, 0.8)  # of the size's term in the sum, in the middle of the runs


def _model(at: Variables, centre: Centre) -> Model:
    """theta: ln of the two terms in the middle of the runs, alpha and beta."""
    n, d = at.log("N") - centre["N"], at.log("D") - centre["D"]

    def model(theta: Array) -> tuple[Array, Array]:
        a, b, alpha, beta = (column[:, None] for column in theta.T)
        power = alpha / beta
        size, tokens = a - power * n, b - d
        total = np.logaddexp(size, tokens)
        share = np.exp(size - total)
        slopes = [beta * share, beta * (1 - share), -share * n, total + share * power * n]
        return beta * total, side_by_side(slopes)

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """Exponents and shares of the terms from a grid."""
    level = float(np.log(loss).mean())
    rows = [
        [level / beta + np.log(share), level / beta + np.log(1 - share), alpha, beta]
        for alpha, beta, share in product(_EXPONENTS, _EXPONENTS, _SHARES)
    ]
    lower, upper = [-200.0, -200.0, 0.005, 0.005], [400.0, 400.0, 2.0, 2.0]
    return Start(starts=np.array(rows), lower=np.array(lower), upper=np.array(upper))


def _natural(theta: Array, centre: Centre) -> Array:
    a, b, alpha, beta = theta.T
    with np.errstate(over="ignore"):  # a draw whose exponent ran to nothing
        A, B = np.exp(a * beta / alpha + centre["N"]), np.exp(b + centre["D"])
    return np.stack([A, B, alpha, beta], axis=1)


LAW = Law(
    name="kaplan",
    formula="L = ((A/N)^(alpha/beta) + B/D)^beta",
    source="Kaplan 2020 (arXiv:2001.08361), eq. 1.5",
    names=("A", "B", "alpha", "beta"),
    variables="ND",
    model=_model,
    start=_start,
    natural=_natural,
    logs=("A", "B"),
    condition_limit=3e3,  # as of chinchilla
    has_floor=False,
)
