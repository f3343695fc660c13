"""One difference of two layers by three estimators: `python -m tests.study.estimators`.

All are of the isoFLOP sweep's runs, in nats/token:

- means over seeds at dense's best size, with own noise (the answer of docs/study.md);
- lowest points of the curves in results/study/isoflop/fits.json, the stars of its figure. The
  interval takes the two curves as independent: half-widths are added in quadrature;
- lowest points of one joint fit: a parabola in ln L for each layer and budget, one curvature for
  all, sizes of three blocks and more. In smaller ones the layer is in the first block.
"""

import json
import math

import numpy as np
from scipy import stats

from tests.study.committed import MODELS, RESULTS, SEEDED, Difference, isoflop, student

PAIRS = (("peer", "dense"), ("peer", "none"), ("peer", "pkm"), ("none", "dense"))
ESTIMATORS = ("means at one size", "minima of the curves", "one joint fit")
LEAST_BLOCKS = 3


def by_means(seeds):
    """(model, other, budget): their Difference."""
    return {(m, o, b): seeds.by_own(m, o, b) for m, o in PAIRS for b in SEEDED}


def by_curves():
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())
    curves = {(c["model"], _near(c["budget"])): c for c in fits["isoflop"]["curves"]}

    def half(curve):
        low, high = curve["loss_interval"]
        return (high - low) / 2

    found = {}
    for m, o in PAIRS:
        for b in SEEDED:
            mine, other = curves[m, b], curves[o, b]
            sd = math.hypot(half(mine), half(other)) / stats.norm.ppf(0.975)
            value = mine["loss_opt"] - other["loss_opt"]
            found[m, o, b] = Difference(
                value=value,
                half=float(stats.norm.ppf(0.975) * sd),
                p=float(2 * stats.norm.sf(abs(value) / sd)),
            )
    return found


def by_joint_fit(seeds):
    """Least squares of all runs; at a curvature the curves are linear, and it is linear too."""
    runs = [r for r in seeds.records if r.n_layers >= LEAST_BLOCKS]
    cells = [(m, b) for m in MODELS for b in SEEDED]
    at = np.array([cells.index((r.model, r.budget)) for r in runs])
    x, y = np.log([r.n_layers for r in runs]), np.array([r.val_loss for r in runs])
    columns = np.zeros((len(runs), 2 * len(cells) + 1))
    rows = np.arange(len(runs))
    columns[rows, at], columns[rows, len(cells) + at], columns[:, -1] = 1, x, x**2
    p, *_ = np.linalg.lstsq(columns, y, rcond=None)
    dof = len(y) - columns.shape[1]
    covariance = ((y - columns @ p) ** 2).sum() / dof * np.linalg.inv(columns.T @ columns)
    curvature = p[-1]

    def lowest(cell):
        """The minimum, and its gradient in the fit's numbers."""
        i = cells.index(cell)
        slope = p[len(cells) + i]
        gradient = np.zeros_like(p)
        gradient[i], gradient[len(cells) + i] = 1, -slope / (2 * curvature)
        gradient[-1] = slope**2 / (4 * curvature**2)
        return p[i] - slope**2 / (4 * curvature), gradient

    found = {}
    for m, o in PAIRS:
        for b in SEEDED:
            (mine, a), (other, c) = lowest((m, b)), lowest((o, b))
            sd = math.sqrt((a - c) @ covariance @ (a - c))
            found[m, o, b] = student(mine - other, sd, dof)
    return found


def estimates(seeds):
    """Name of the estimator: its differences."""
    found = by_means(seeds), by_curves(), by_joint_fit(seeds)
    return dict(zip(ESTIMATORS, found, strict=True))


def rows(seeds, pairs=PAIRS):
    """The document's: what, estimator, and a cell a budget."""
    names = {"peer": "PEER", "none": "no layer", "pkm": "PKM", "dense": "dense"}
    return [
        [f"{names[m]} minus {names[o]}", estimator, *(str(found[m, o, b]) for b in SEEDED)]
        for m, o in pairs
        for estimator, found in estimates(seeds).items()
    ]


def _near(budget):
    return min(SEEDED, key=lambda b: abs(b - budget))


if __name__ == "__main__":
    for cells in rows(isoflop()):
        print("| " + " | ".join(cells) + " |")
