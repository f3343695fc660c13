"""Loss in size, tokens, learning rate and batch: valleys around best rates and batches.

    L = E + A (N/N0)^-alpha + B (N/N0)^B_N (D/D0)^-beta + k_lr g(x) + k_batch g(y)
    x = ln(lr / lr*),       lr*    = lr_0 (N/N0)^lr_N (D/D0)^lr_D (batch/batch*)^lr_batch
    y = ln(batch / batch*), batch* = batch_0 (D/D0)^batch_D (N/N0)^batch_N

N0, D0 are the geometric means of the runs. The valley g is x^2, or the two exponentials of
`valley`, for losses rise faster above a best rate than below it. k_lr and k_batch may be powers of
N and D too. A form is a choice of these parameters; those that it leaves out are 0.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model, side_by_side
from analysis.laws.law import Centre, Start
from analysis.surfaces.form import BATCH, LR, D, Form, N, Points

DIVERGED = 1.5  # times the lowest loss of a size and token count: no rate that merely is bad
_FAR = 30.0  # ln of what is no loss
_BASE = ("E", "A", "B", "alpha", "beta", "lr_0", "batch_0", "k_lr", "k_batch")
# name -> lower, upper, where it starts; of ln E, ln A, ln B, ln lr_0 less its mean, ln k
_BOX: Mapping[str, tuple[float, float, float]] = {
    "E": (-9.0, 0.0, 0.0),  # of ln of its share of the lowest loss
    "A": (-9.0, 4.0, -2.0),
    "B": (-9.0, 4.0, -2.0),
    "alpha": (0.01, 2.0, 0.3),
    "beta": (0.01, 2.0, 0.3),
    "B_N": (-1.0, 1.0, 0.0),
    "lr_0": (-6.0, 6.0, 0.0),
    "lr_N": (-2.0, 2.0, -0.5),
    "lr_D": (-2.0, 2.0, 0.2),
    "lr_batch": (-2.0, 2.0, 0.3),
    "lr_bend": (-1.0, 1.0, 0.0),
    "k_lr": (-12.0, 3.0, -3.0),
    "k_lr_N": (-2.0, 2.0, 0.0),
    "k_lr_D": (-2.0, 2.0, 0.0),
    "above_lr": (0.01, 4.0, 0.6),
    "batch_0": (-6.0, 6.0, 0.0),
    "batch_D": (-2.0, 2.0, 0.4),
    "batch_N": (-2.0, 2.0, 0.0),
    "k_batch": (-12.0, 3.0, -3.0),
    "k_batch_N": (-2.0, 2.0, 0.0),
    "k_batch_D": (-2.0, 2.0, 0.0),
    "above_batch": (0.01, 4.0, 0.5),
    "below_batch": (0.01, 4.0, 0.5),
}
_LOGS = ("E", "A", "B", "lr_0", "batch_0", "k_lr", "k_batch")
_SKEW = ("above_lr", "above_batch", "below_batch")
_STRAIGHT = 1e-7  # a rate of an exponential that is a straight line


def valley(x: Array, up: Array, down: Array) -> tuple[Array, Array, Array, Array]:
    """g(x) = 2/(up + down) ((e^(up x) - 1)/up - (1 - e^(-down x))/down), about x^2 near 0, and its
    derivatives by x, up and down. A rise by e^(up x) above and by e^(-down x) below.
    """
    rise, by_rise = _exponential(x, up)
    fall, by_fall = _exponential(x, -down)
    scale = 2 / (up + down)
    inner = rise - fall
    slope = np.exp(np.minimum(up * x, _FAR)) - np.exp(np.minimum(-down * x, _FAR))
    value = scale * inner
    shrink = value / (up + down)
    return value, scale * slope, scale * by_rise - shrink, scale * by_fall - shrink


def _exponential(x: Array, k: Array) -> tuple[Array, Array]:
    """(e^(kx) - 1)/k and its derivative by k."""
    t = np.minimum(k * x, _FAR)
    value = np.expm1(t) / k
    return value, (x * np.exp(t) - value) / k


def _parabola(x: Array) -> tuple[Array, Array]:
    return x * x, 2 * x


def rate_form(
    *, name: str, exponents: tuple[str, ...], widths: bool, skewed: bool, formula: str, source: str
) -> Form:
    """Form with these exponents beside the constants, alpha and beta.

    exponents: of lr_N, lr_D, lr_batch, lr_bend, batch_D, batch_N and B_N. widths: whether k_lr and
    k_batch are powers of N and D. skewed: whether valleys are two exponentials.
    """
    more = ("k_lr_N", "k_lr_D", "k_batch_N", "k_batch_D") if widths else ()
    kept = {*_BASE, *exponents, *more, *(_SKEW if skewed else ())}
    names = tuple(n for n in _BOX if n in kept)
    places = {n: names.index(n) for n in names}

    def model(at: Points, centre: Centre) -> Model:
        n, d = at.log("n_params") - centre["n_params"], at.log("n_tokens") - centre["n_tokens"]
        r, b = at.log("lr") - centre["lr"], at.log("batch") - centre["batch"]

        def of(theta: Array) -> tuple[Array, Array]:
            zero = np.zeros((len(theta), 1))
            p = {q: theta[:, [places[q]]] if q in places else zero for q in _BOX}
            y = b - p["batch_0"] - p["batch_D"] * d - p["batch_N"] * n
            x = (
                r
                - p["lr_0"]
                - p["lr_N"] * n
                - p["lr_D"] * d
                - (p["lr_batch"] + p["lr_bend"] * y) * y
            )
            floor = np.exp(p["E"]) + 0 * y
            of_n, of_d = (
                np.exp(p["A"] - p["alpha"] * n),
                np.exp(p["B"] - p["beta"] * d + p["B_N"] * n),
            )
            k = np.exp(p["k_lr"] + p["k_lr_N"] * n + p["k_lr_D"] * d)
            c = np.exp(p["k_batch"] + p["k_batch_N"] * n + p["k_batch_D"] * d)
            j: dict[str, Array] = {}
            if skewed:
                gx, sx, up, _ = valley(x, p["above_lr"], _STRAIGHT + 0 * x)
                gy, sy, more_up, more_down = valley(y, p["above_batch"], p["below_batch"])
                j |= {"above_lr": k * up}
                j |= {"above_batch": c * more_up, "below_batch": c * more_down}
            else:
                (gx, sx), (gy, sy) = _parabola(x), _parabola(y)
            kx, cy = k * gx, c * gy
            moved = -k * sx  # by ln lr*
            turned = -c * sy - moved * (p["lr_batch"] + 2 * p["lr_bend"] * y)  # by ln batch*
            j |= {
                "E": floor,
                "A": of_n,
                "B": of_d,
                "alpha": -n * of_n,
                "beta": -d * of_d,
                "B_N": n * of_d,
            }
            j |= {"lr_0": moved, "lr_N": moved * n, "lr_D": moved * d}
            j |= {"lr_batch": moved * y, "lr_bend": moved * y * y}
            j |= {"k_lr": kx, "k_lr_N": kx * n, "k_lr_D": kx * d}
            j |= {"batch_0": turned, "batch_D": turned * d, "batch_N": turned * n}
            j |= {"k_batch": cy, "k_batch_N": cy * n, "k_batch_D": cy * d}
            value = floor + of_n + of_d + kx + cy
            columns = [np.broadcast_to(j[q], value.shape) for q in names]
            return value, side_by_side(columns)

        return of

    def start(at: Points, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
        """Exponents on a grid, with the rate and the batch of the lowest loss as the middle."""
        top = float(np.log(loss.min()))
        low = np.array([_BOX[q][0] + (top if q == "E" else 0.0) for q in names])
        high = np.array([_BOX[q][1] + (top if q == "E" else 0.0) for q in names])
        best = loss <= np.quantile(loss, 0.1)
        middle = {q: float(at.log(q)[best].mean()) - centre[q] for q in ("lr", "batch")}
        rows = []
        for share, exponent, narrow in product((0.4, 0.8), (0.2, 0.45), (-4.0, -2.5)):
            own = {q: _BOX[q][2] for q in names} | {"alpha": exponent, "beta": exponent}
            rest = float(np.log(loss.min() * (1 - share) / 2))
            own |= {"E": top + float(np.log(share)), "A": rest, "B": rest}
            own |= {"lr_0": middle["lr"], "batch_0": middle["batch"]}
            own |= {"k_lr": narrow, "k_batch": narrow}
            rows.append([own[q] for q in names])
        return Start(starts=np.array(rows), lower=low, upper=high)

    def natural(theta: Array, centre: Centre) -> Array:
        found = theta.copy()
        for q, column in (("lr_0", "lr"), ("batch_0", "batch")):
            found[:, places[q]] += centre[column]
        logs = np.isin(names, _LOGS)
        found[:, logs] = np.exp(found[:, logs])
        return found

    identified: dict[str, Any] = {
        "n_params": ("A", "alpha"),
        "n_tokens": ("B", "beta"),
        "lr": ("lr_0", "k_lr"),
        "batch": ("batch_0", "k_batch"),
    }
    return Form(
        name=name,
        subject="rates",
        formula=formula,
        source=source,
        columns=(N, D, LR, BATCH),
        edges=("n_params", "n_tokens", "n_params*n_tokens"),
        names=names,
        model=model,
        start=start,
        natural=natural,
        logs=_LOGS,
        terms={"A": ("alpha",), "B": ("beta",)},
        tells=identified,
        excludes=_diverged,
        condition_limit=3e3,  # as of chinchilla
    )


def _diverged(at: Points, loss: Array) -> tuple[np.ndarray, str]:
    """Runs whose loss is far above the lowest of their size and token count."""
    _, cell = np.unique(np.stack([at["n_params"], at["n_tokens"]]), axis=1, return_inverse=True)
    lowest = np.full(cell.max() + 1, np.inf)
    np.minimum.at(lowest, cell.ravel(), loss)
    return loss > DIVERGED * lowest[cell.ravel()], (
        f"diverged: their loss is more than {DIVERGED:g} times the lowest of their size and tokens"
    )
