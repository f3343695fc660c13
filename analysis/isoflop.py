"""IsoFLOP curves: per model and budget, a parabola of the loss in the logarithm of the size.

Hoffmann 2022 (arXiv:2203.15556), §3.2, "Approach 2".
"""

import numpy as np
import pandas as pd

from analysis.results import FitError, FitStatus, IsoFLOPCurve, IsoFLOPFit

X_NAMES = ("n_params", "n_active_params", "n_non_embedding_params", "n_tokens")
MISFIT = 0.02  # nats/token: what a seed changes at small scale (docs/small-scale.md)
MIN_POINTS = 4  # three determine a parabola and leave nothing to judge it by


def fit_isoflop(table: pd.DataFrame, x: str = "n_params") -> IsoFLOPFit:
    """A curve for each model and budget of the table's finished runs.

    x: the size on the axis, one of X_NAMES. Of several runs of one cell (model, budget, size)
    the best is taken, never the mean: they differ in what was tuned. A minimum outside the
    points or at their edge, points far off the parabola, one that opens downwards, or no point
    to spare makes a curve DOUBTFUL, with the reason. Raises FitError if no curve has three sizes.
    """
    if x not in X_NAMES:
        raise ValueError(f"x={x!r} is not one of {', '.join(X_NAMES)}")
    done = table[table["status"] == "done"]
    curves, skipped = [], []
    for key, runs in done.groupby(["model", "budget"], sort=True):
        model, budget = str(key[0]), float(runs["budget"].iloc[0])
        cells = runs.groupby(x, as_index=False)["val_loss"].min()
        if len(cells) < 3:
            skipped.append(f"{model} at C={budget:.3g}: {len(cells)} sizes, and a parabola needs 3")
            continue
        sizes = cells[x].to_numpy(dtype=np.float64)
        losses = cells["val_loss"].to_numpy(dtype=np.float64)
        curves.append(_fit_curve(model, budget, x, sizes, losses))
    if not curves:
        raise FitError(f"no curve to fit: {'; '.join(skipped) or 'no finished run in the table'}")
    return IsoFLOPFit(x_name=x, curves=tuple(curves), skipped=tuple(skipped))


def _fit_curve(
    model: str, budget: float, x_name: str, sizes: np.ndarray, losses: np.ndarray
) -> IsoFLOPCurve:
    u = np.log(sizes)
    centre = u.mean()  # centred: ln N near 15 makes the plain normal equations ill-conditioned
    a, slope, level = np.polyfit(u - centre, losses, 2)
    b, c = slope - 2 * a * centre, a * centre**2 - slope * centre + level
    rmse = float(np.sqrt(np.mean((np.polyval([a, slope, level], u - centre) - losses) ** 2)))
    u_opt = centre - slope / (2 * a) if a > 0 else np.nan
    loss_opt = level - slope**2 / (4 * a) if a > 0 else np.nan
    warnings = tuple(_doubts(u, losses, float(a), float(u_opt), rmse))
    return IsoFLOPCurve(
        model=model,
        budget=budget,
        x_name=x_name,
        n_points=len(sizes),
        a=float(a),
        b=float(b),
        c=float(c),
        x_opt=float(np.exp(u_opt)),
        loss_opt=float(loss_opt),
        rmse=rmse,
        x_min=float(sizes.min()),
        x_max=float(sizes.max()),
        status=FitStatus.DOUBTFUL if warnings else FitStatus.CONVERGED,
        warnings=warnings,
    )


def _doubts(u: np.ndarray, losses: np.ndarray, a: float, u_opt: float, rmse: float) -> list[str]:
    found = []
    if len(u) < MIN_POINTS:
        found.append(f"{len(u)} sizes: no residual to judge the parabola by")
    if not a > 0:
        return [*found, "the parabola opens downwards: no minimum"]
    if not u.min() <= u_opt <= u.max():
        found.append("the minimum lies outside the sizes tried")
    if losses.argmin() in (0, len(u) - 1):
        end = "smallest" if losses.argmin() == 0 else "largest"
        found.append(f"the {end} size is the best: try beyond it")
    if rmse > MISFIT:
        found.append(f"the points lie {rmse:.3f} nats off it (rms): not a parabola")
    return found
