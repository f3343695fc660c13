"""Loss in size and parallel streams: ParScale, Chen 2025 (arXiv:2505.10475), its practical law.

L = E + (A/(N (1 + k ln P)))^alpha: P streams of one model count as 1 + k ln P times its
parameters. Tokens are alike in all runs.
"""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Start, floor_texts
from analysis.surfaces.form import Column, Form, N, Points

_K = (np.log(1e-4), np.log(1e3), (0.1, 0.4, 1.5))
_ALPHA = (0.01, 2.0, (0.08, 0.2, 0.4))
_FLOORS = (0.0, 0.5, 0.8)  # shares of the lowest loss


def _model(at: Points, centre: Centre) -> Model:
    """theta: E; ln of the term of one stream in the middle of the runs; alpha; ln k."""
    n, streams = at.log("n_params") - centre["n_params"], at.log("n_streams")

    def of(theta: Array) -> tuple[Array, Array]:
        e, a, alpha, log_k = (column[:, None] for column in theta.T)
        k = np.exp(log_k)
        worth = n + np.log1p(k * streams)
        term = np.exp(a - alpha * worth)
        by_k = -alpha * term * k * streams / (1 + k * streams)
        columns = [np.ones_like(term), term, -worth * term, by_k]
        return e + term, side_by_side(columns)

    return of


def _start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """Height of the term on a grid of the others."""
    lowest, level = float(loss.min()), float(np.median(loss))
    rows = [
        [share * lowest, np.log(level - share * lowest), alpha, np.log(k)]
        for share in _FLOORS
        for alpha in _ALPHA[2]
        for k in _K[2]
    ]
    return Start(
        starts=np.array(rows),
        lower=np.array([0.0, np.log(1e-4 * lowest), _ALPHA[0], _K[0]]),
        upper=np.array([lowest, np.log(1e3 * level), _ALPHA[1], _K[1]]),
    )


def _natural(theta: Array, centre: Centre) -> Array:
    e, a, alpha, log_k = theta.T
    return np.stack([e, np.exp(centre["n_params"] + a / alpha), alpha, np.exp(log_k)], axis=1)


FORM = Form(
    name="parallel",
    subject="streams",
    formula="L = E + (A/(N (1 + k ln P)))^alpha",
    source="ParScale, Chen 2025 (arXiv:2505.10475), practical law",
    columns=(
        N,
        Column(name="n_streams", aliases=("streams", "p", "parallel_size", "parallel_streams")),
    ),
    edges=("n_params", "n_streams"),
    names=("E", "A", "alpha", "k"),
    model=_model,
    start=_start,
    natural=_natural,
    logs=("A", "k"),
    tells={"n_params": ("A", "alpha"), "n_streams": ("k",)},
    at_bound={
        **floor_texts("E", " of the data: these losses do not level off"),
        ("k", False): "k stopped at its lower bound: in these runs streams are worth nothing",
        ("k", True): "k ran to its bound: it is not identifiable from these runs",
    },
    condition_limit=1e4,
)
