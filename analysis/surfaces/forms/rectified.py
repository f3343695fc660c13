"""Loss after fine-tuning on D examples, by the rectified law: Lin 2024 (arXiv:2402.02314), its
definition of the rectified scaling law.

L = B/(D_l + D^beta) + E. D_l is the pre-learned data size, what pre-training is worth in D^beta:
below it more examples hardly help. One law is of one model on one task.
"""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Start, floor_texts
from analysis.surfaces.form import Column, Form, Points

_BETA = (0.02, 3.0, (0.15, 0.4, 0.8, 1.3))
_PRELEARNED = (-12.0, 12.0, (-6.0, -1.0, 1.0, 3.0))  # ln of D_l to D^beta in the middle
_CHOSEN = 8
_ABOVE = 0.05  # of the losses' range: noise takes a lowest loss below the floor


def _model(at: Points, centre: Centre) -> Model:
    """theta: E; ln B, ln D_l less ln D^beta in the middle of the runs; beta."""
    u = at.log("n_examples") - centre["n_examples"]

    def of(theta: Array) -> tuple[Array, Array]:
        e, b, prelearned, beta = (column[:, None] for column in theta.T)
        below = np.logaddexp(prelearned, beta * u)
        term = np.exp(b - below)
        share = np.exp(prelearned - below)
        columns = [np.ones_like(term), term, -term * share, -term * (1 - share) * u]
        return e + term, side_by_side(columns)

    return of


def _start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
    """Floor and height by least squares on a grid of beta and D_l; the nearest."""
    u, spread = at.log("n_examples") - centre["n_examples"], float(np.ptp(loss)) or 1.0
    found = []
    for beta in _BETA[2]:
        for prelearned in _PRELEARNED[2]:
            shape = np.exp(-np.logaddexp(prelearned, beta * u))
            (height, floor), *_ = np.linalg.lstsq(
                np.stack([shape, np.ones_like(shape)], axis=1), loss, rcond=None
            )
            height = max(float(height), 1e-3 * spread / float(shape.max()))
            floor = float(np.clip((loss - height * shape).mean(), 0.0, loss.min()))
            misfit = float(((loss - floor - height * shape) ** 2).sum())
            found.append((misfit, [floor, np.log(height), prelearned, beta]))
    found.sort(key=lambda pair: pair[0])
    low, high = np.log(1e-4 * spread), np.log(1e4 * float(loss.max())) + _PRELEARNED[1]
    return Start(
        starts=np.array([row for _, row in found[:_CHOSEN]]),
        lower=np.array([0.0, low, _PRELEARNED[0], _BETA[0]]),
        upper=np.array([float(loss.min()) + _ABOVE * spread, high, _PRELEARNED[1], _BETA[1]]),
    )


def _natural(theta: Array, centre: Centre) -> Array:
    e, b, prelearned, beta = theta.T
    middle = beta * centre["n_examples"]
    return np.stack([e, np.exp(b + middle), np.exp(prelearned + middle), beta], axis=1)


FORM = Form(
    name="rectified",
    subject="fine_tuning",
    formula="L = B/(D_l + D^beta) + E",
    source="Lin 2024 (arXiv:2402.02314), rectified scaling law",
    columns=(
        Column(
            name="n_examples",
            aliases=("examples", "n_samples", "samples", "data_size", "dataset_size", "train_size"),
        ),
    ),
    edges=("n_examples",),
    names=("E", "B", "D_l", "beta"),
    model=_model,
    start=_start,
    natural=_natural,
    logs=("B", "D_l"),
    tells={"n_examples": ("B", "D_l", "beta")},
    at_bound={
        **floor_texts("E", " of the data: these losses do not level off"),
        ("D_l", False): "D_l stopped at its lower bound: these runs have no phase before the "
        "power law, and a pre-learned size is not identifiable",
        ("D_l", True): "D_l ran to its bound: these runs end before the power law begins, and B, "
        "D_l and beta are not identifiable beside each other",
    },
    condition_limit=1e4,
)
