"""Laws of rates as `python -m analysis rates` wrote them, and how far rates used may be from best.

The columns that a law is in are a choice, and the cells seldom make it: so each draw is of one of
the laws that AICc does not exclude, as often as its weight says (fitting/average.py).

The best rate of a cell is the law's, off by the law's own error (Student's t of its covariance, the
same draw for all cells of a law) and by what the law misses of a cell: tau, of each model and
budget its own. All sizes there share it: drawn for each size, it would go from a curve's lowest
loss with the mean, and intervals would hold the truth too seldom. tau is drawn too, as likely as
the scatter of the cells makes it (restricted likelihood, every tau as likely before: Gelman 2006,
Bayesian Analysis 1, 515-533). The saved one is of the most likelihood, too small where cells are
few for the law's numbers. A rate that is off by e in ln(rate) costs k e^2, k being the curvature of
the model's cells: one for all of a model, by parabolas of the rates that the cells' curves are of.
Loss rises faster above the best rate than below it; a parabola has the mean of both sides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.average import akaike_weights, possible
from analysis.fitting.intervals import Array
from experiments.system.json_files import read_json

_DRAWS = 4000
_ALONE = 6  # cells of one model from which on AICc can choose a column (budget/rate_law.py)
_ONE = 1e-6  # of AICc: laws that are as near say the same of the cells
_TAUS, _GRID = 200, 400  # quantiles of tau, and values that are looked at
_WIDEST, _LEAST = 2.0, 1e-6  # tau, of the standard deviation of ln lr*; ln(rate)
_REMEDY = "give the rates.json that `python -m analysis rates TABLE --out FOLDER` writes"
_LAW = ":"  # between a file and the law of it that is taken alone


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedLaw:
    """ln lr* = theta . (1 for the model that it is and 0 for the others, ln of each column).

    taus (T,): standard deviations of what it misses of a cell, ln(rate), each as likely; share: of
    the weight of its models' laws.
    """

    models: tuple[str, ...]
    columns: tuple[str, ...]
    theta: Array
    covariance: Array
    dof: int
    taus: Array
    share: float = 1.0

    def design(self, rows: pd.DataFrame, models: Sequence[str]) -> Array:
        """(S, p). Raises ValueError for a column that the rows have not."""
        own = [[float(model == name) for model in models] for name in self.models]
        for name in self.columns:
            if name not in rows or not (rows[name].astype("float64") > 0).all():
                raise ValueError(f"the law is of {name}, which these runs have not all")
        logs = [np.log(rows[name].to_numpy(dtype=np.float64)) for name in self.columns]
        return np.array([*own, *logs]).T

    def draw(self, X: Array, place: np.ndarray, n: int, rng: np.random.Generator) -> Array:
        """ln lr* (n, S) of designs (S, p), alike in what the law misses at one place (S,)."""
        normal = rng.multivariate_normal(np.zeros(X.shape[1]), self.covariance, size=n)
        wide = np.sqrt(self.dof / rng.chisquare(self.dof, size=n))
        missed = rng.standard_normal((n, place.max() + 1))[:, place]
        best = X @ self.theta + (normal * wide[:, None]) @ X.T
        return np.asarray(best + rng.choice(self.taus, (n, 1)) * missed)


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRates:
    """laws: those of the same models together, the likeliest first; groups of one model come first
    unless they are of few cells. curvatures: model -> k, nats over the square of ln(rate).
    """

    path: str
    laws: tuple[tuple[SavedLaw, ...], ...]
    curvatures: Mapping[str, float]

    def costs(self, rows: pd.DataFrame, seed: int = 0) -> Array:
        """Draws (K, S) of what the rate of each row costs, nats/token.

        rows: with series, model, budget and lr, and the laws' columns. Raises ValueError, a line,
        for a model without a law or curvature, and for runs without a rate.
        """
        if "lr" not in rows or not (rows["lr"].astype("float64") > 0).all():
            raise ValueError("not all runs have a rate, lr")
        known = dict.fromkeys(name for laws in self.laws for name in laws[0].models)
        models = [
            series if series in known else model
            for series, model in zip(rows["series"], rows["model"], strict=True)
        ]
        lost = [name for name in dict.fromkeys(models) if name not in known]
        if lost:
            raise ValueError(f"no law is of {', '.join(lost)}, but of {', '.join(known) or 'none'}")
        flat = [name for name in dict.fromkeys(models) if not self.curvatures.get(name, 0.0) > 0]
        if flat:
            raise ValueError(f"no cell tells how much a rate costs {', '.join(flat)}")
        rng = np.random.default_rng(seed)
        used = np.log(rows["lr"].to_numpy(dtype=np.float64))
        k = np.array([self.curvatures[model] for model in models])
        place = rows.groupby(["series", "budget"], dropna=False).ngroup().to_numpy()
        costs, left = np.zeros((_DRAWS, len(rows))), np.full(len(rows), True)
        for laws in self.laws:
            own = left & np.isin(models, laws[0].models)
            if not own.any():
                continue
            left &= ~own
            of_own = [m for m, mine in zip(models, own, strict=True) if mine]
            which = np.zeros(_DRAWS, dtype=int)
            if len(laws) > 1:
                which = rng.choice(len(laws), _DRAWS, p=[law.share for law in laws])
            for i, law in enumerate(laws):
                drawn = which == i
                best = law.draw(law.design(rows[own], of_own), place[own], int(drawn.sum()), rng)
                costs[np.ix_(drawn, own)] = k[own] * (used[own] - best) ** 2
        return costs


def read_rates(path: Path) -> SavedRates:
    """path: of the file, or FILE:LABEL, as rates.json:n_tokens, for this law of each group alone.

    Raises ValueError, a line, for a file that is no rates.json or has no such law, OSError for one
    that can't be read.
    """
    file, label = _file_and_law(path)
    try:
        found = read_json(file)
        groups = [(group, _likely(group, label)) for group in found["forms"]]
        laws = [_laws(nodes, found["cells"]) for _, nodes in groups if nodes]
        laws.sort(key=lambda own: (_n_cells(own[0]) < _ALONE, len(own[0].models)))
        labels = dict.fromkeys(law["label"] for group, _ in groups for law in group["laws"])
        curvatures = _curvatures(found["cells"])
    except OSError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} has no laws of rates ({error!r:.60}); {_REMEDY}") from None
    if not labels:
        raise ValueError(f"{file} has no law of rates, for its cells were too few; {_REMEDY}")
    if not laws:
        raise ValueError(f"{file} has no law {label!r}; it has {', '.join(map(repr, labels))}")
    return SavedRates(path=str(path), laws=tuple(laws), curvatures=curvatures)


def _file_and_law(path: Path) -> tuple[Path, str | None]:
    """A file's own name may have a colon."""
    name, colon, label = str(path).rpartition(_LAW)
    return (Path(name), label) if colon and not Path(path).exists() else (path, None)


def _n_cells(law: SavedLaw) -> int:
    return law.dof + len(law.theta)


def _likely(group: Mapping[str, Any], label: str | None) -> list[Mapping[str, Any]]:
    """Laws of the same models that may hold, the chosen one first: it alone, if cells are too few
    for AICc; or that of the label, if any is. Of laws that are one at these cells, as of a width
    and of a depth in proportion to it, the first.
    """
    if label is not None:
        return [law for law in group["laws"] if law["label"] == label]
    chosen = [law for law in group["laws"] if law["label"] == group["chosen"]]
    if not chosen or chosen[0]["aicc"] is None:
        return chosen
    found = chosen
    for law in sorted((n for n in group["laws"] if n["aicc"] is not None), key=_aicc):
        same = [one for one in found if len(one["columns"]) == len(law["columns"])]
        if all(abs(_aicc(one) - _aicc(law)) > _ONE for one in same):
            found.append(law)
    return found


def _laws(
    nodes: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]
) -> tuple[SavedLaw, ...]:
    """Those that are not excluded, with their shares of the weight."""
    if len(nodes) == 1:
        return (_law(nodes[0], cells),)
    weights = akaike_weights([_aicc(node) for node in nodes])
    kept = possible(weights)
    return tuple(
        replace(_law(node, cells), share=float(weight / weights[kept].sum()))
        for node, weight, is_left in zip(nodes, weights, kept, strict=True)
        if is_left
    )


def _aicc(node: Mapping[str, Any]) -> float:
    return float(node["aicc"])


def _law(node: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> SavedLaw:
    theta = np.array(node["theta"], dtype=np.float64)
    covariance = np.array(node["covariance"], dtype=np.float64)
    law = SavedLaw(
        models=tuple(map(str, node["models"])),
        columns=tuple(map(str, node["columns"])),
        theta=theta,
        covariance=covariance,
        dof=int(node["dof"]),
        taus=np.zeros(1),
    )
    n = len(law.models) + len(law.columns)
    if theta.shape != (n,) or covariance.shape != (n, n) or law.dof < 1:
        raise ValueError("a law's numbers don't go together")
    if not (np.isfinite(theta).all() and np.isfinite(covariance).all()):
        raise ValueError("a law has a number that is not finite")
    own = [c for c in cells if c["inside"] and c["lr_opt"] and c["model"] in law.models]
    if len(own) != law.dof + n:
        raise ValueError("a law's cells are not all in the file")
    rows = pd.DataFrame([{**cell["at"], "model": cell["model"]} for cell in own])
    X = law.design(rows, list(rows["model"]))
    y = np.log([float(cell["lr_opt"]) for cell in own])
    errors = np.array([float(cell["error"] or "nan") for cell in own])
    return replace(law, taus=_taus(X, y, errors if np.isfinite(errors).all() else 0 * y))


def _taus(X: Array, y: Array, errors: Array) -> Array:
    """Quantiles of tau by the restricted likelihood of y (n,) on X (n, p), with errors (n,)."""
    grid = np.linspace(0, _WIDEST * float(np.std(y)) + _LEAST, _GRID)
    logs = []
    for tau in grid:
        variance = errors**2 + max(tau, _LEAST) ** 2
        A = X / np.sqrt(variance)[:, None]
        q, r = np.linalg.qr(A)
        z = y / np.sqrt(variance)
        left = z @ z - (q.T @ z) @ (q.T @ z)
        ends = 2 * np.log(np.abs(np.diag(r))).sum()
        logs.append(-0.5 * (np.log(variance).sum() + ends + left))
    chance = np.cumsum(np.exp(np.array(logs) - max(logs)))
    middles = (np.arange(_TAUS) + 0.5) / _TAUS
    return np.interp(middles, chance / chance[-1], grid)


def _curvatures(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """k of each model, by least squares of parabolas that share it."""
    sums: dict[str, list[float]] = {}
    for cell in cells:
        on = list(cell["fitted"])
        u, losses = (np.array(cell[name], dtype=np.float64)[on] for name in ("lrs", "losses"))
        if len(u) < 3:
            continue
        v = np.log(u) - np.log(u).mean()
        line = np.stack([np.ones_like(v), v], axis=1)
        bend = v**2 - line @ np.linalg.lstsq(line, v**2)[0]
        total = sums.setdefault(str(cell["model"]), [0.0, 0.0])
        total[0] += float(bend @ losses)
        total[1] += float(bend @ bend)
    return {model: above / below for model, (above, below) in sums.items() if below > 0}
