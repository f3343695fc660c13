"""Chinchilla's law of what repeated tokens, and parameters beyond those that new ones want, are
worth: Muennighoff 2023 (arXiv:2305.16264), eq. 5 and 6.

U unique tokens repeated D/U - 1 times count as D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)). N_U is the
best size for U tokens, Hoffmann 2022's eq. 4; of N above it count N' = N_U + N_U R_N (1 -
exp(-(N/N_U - 1)/R_N)). The paper fits R_D and R_N after the rest, with alpha = beta; here all seven
are fitted together.
"""

from itertools import product

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.fitting.status import FitError
from analysis.laws.forms.chinchilla import LAW as CHINCHILLA
from analysis.laws.law import Centre, Law, Start, Variables, floor_texts

_LEAST, _MOST = np.log(0.05), np.log(1e4)  # of ln R: repeats are worth nothing, or as much as new
_REPEATS = (2.0, 15.0, 100.0)  # R_D to start from; the paper has 15.4
_EXCESS = (1.0, 5.0, 50.0)  # R_N; the paper has 5.3
_EACH = 4  # of Chinchilla's starts at each of these
_FAR = 200.0  # ln of an excess, beyond which it is one


def _worth(r: Array, log_r: Array) -> tuple[Array, Array, Array]:
    """ln(1 + R (1 - exp(-r/R))) and its derivatives by r and ln R."""
    big = np.exp(log_r)
    faded = np.exp(-r / big)
    whole = 1 + big * (1 - faded)
    return np.log(whole), faded / whole, (whole - 1 - r * faded) / whole


def _model(at: Variables, centre: Centre) -> Model:
    """theta: ln E, ln A and ln B in the middle of the runs, alpha, beta, ln R_D, ln R_N."""
    n = at.log("N") - centre["N"]
    unique = np.minimum(at.U, at.D)
    u, repeats = np.log(unique) - centre["D"], np.maximum(at.D / unique - 1, 0.0)

    def model(theta: Array) -> tuple[Array, Array]:
        e, a, b, alpha, beta, log_rd, log_rn = (column[:, None] for column in theta.T)
        more, _, by_rd = _worth(repeats, log_rd)
        d = u + more
        # ln N_U in the middle of the runs: where alpha A/N^alpha = beta B/U^beta
        wanted = (np.log(alpha / beta) + a - b + beta * u) / alpha
        over = np.clip(n - wanted, 0.0, _FAR)
        times = np.exp(over)
        kept, by_r, by_rn = _worth(times - 1, log_rn)
        size = np.minimum(n, wanted) + kept
        moved = np.where(over > 0, 1 - by_r * times, 0.0)  # what `size` moves by with `wanted`
        logs = np.stack(np.broadcast_arrays(e, a - alpha * size, b - beta * d))
        top = logs.max(axis=0)
        parts = np.exp(logs - top)
        total = parts.sum(axis=0)
        floor, of_n, of_d = parts / total
        columns = [
            floor,
            of_n * (1 - moved),
            of_n * moved + of_d,
            -of_n * (size + moved * (1 / alpha - wanted)),
            of_n * moved * (1 / beta - u) - of_d * d,
            -of_d * beta * by_rd,
            -of_n * alpha * by_rn,
        ]
        return top + np.log(total), side_by_side(columns)

    return model


def _start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """Chinchilla's, of tokens as they count at a grid of R_D."""
    unique = np.minimum(at.U, at.D)
    if not (1.001 * unique < at.D).any():
        raise FitError(
            "no run is known to repeat its tokens (column epochs above 1): what repeats are worth "
            "is not identifiable"
        )
    rows, box = [], CHINCHILLA.start(at, centre, loss, ())
    for repeats in _REPEATS:
        more, *_ = _worth(at.D / unique - 1, np.log(repeats))
        worth = Variables.of(at.N, unique * np.exp(more))
        starts = CHINCHILLA.start(worth, centre, loss, ()).starts[:_EACH]
        pairs = product(starts, _EXCESS)
        rows += [[*row, np.log(repeats), np.log(excess)] for row, excess in pairs]
    lower, upper = [*box.lower, _LEAST, _LEAST], [*box.upper, _MOST, _MOST]
    return Start(starts=np.array(rows), lower=np.array(lower), upper=np.array(upper))


def _natural(theta: Array, centre: Centre) -> Array:
    return np.column_stack([CHINCHILLA.natural(theta[:, :5], centre), np.exp(theta[:, 5:])])


LAW = Law(
    name="muennighoff",
    formula="L = E + A/N'^alpha + B/D'^beta, D' = U (1 + R_D (1 - exp(-(D/U - 1)/R_D))), N' "
    "likewise with R_N beyond the best size for U unique tokens",
    source="Muennighoff 2023 (arXiv:2305.16264), eq. 5 and 6",
    names=("E", "A", "B", "alpha", "beta", "R_D", "R_N"),
    variables="NDU",
    model=_model,
    start=_start,
    natural=_natural,
    logs=("E", "A", "B", "R_D", "R_N"),
    terms={"A": ("alpha", "R_N"), "B": ("beta", "R_D")},
    at_bound={
        **floor_texts("E", " of the data: this form does not describe these runs"),
        ("R_D", False): "R_D stopped at its lower bound: repeated tokens are worth nothing here",
        ("R_D", True): "R_D ran to its bound: in these runs repeated tokens are worth new ones",
        ("R_N", False): "R_N stopped at its lower bound: parameters beyond the best size for the "
        "unique tokens are worth nothing here",
        (
            "R_N",
            True,
        ): "R_N ran to its bound: in these runs parameters beyond it count in full",
    },
    condition_limit=3e3,  # as of chinchilla
)
