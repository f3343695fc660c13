"""A loss surface of one of the forms, fitted to runs of N parameters and D tokens."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.checks import positive
from analysis.fitting.clusters import cluster_codes, describe_draws, drawn_counts, few_clusters
from analysis.fitting.intervals import Array, Prediction, percentiles
from analysis.fitting.least_squares import condition_number, minimise
from analysis.fitting.results import DrawsFit
from analysis.fitting.status import FitError, FitStatus, Warnings
from analysis.surfaces.forms import SURFACES

SurfaceName = Literal["chinchilla", "over_trained", "farseer"]
_SAME = 1e-6  # relative: starts this near the best objective found the same minimum
_FEW_STARTS = 0.2
_COLLINEAR = 3e3  # as of the parametric surface
_FIXED_RATIO = 0.99  # correlation of ln N and ln D


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceFit(DrawsFit):
    """A surface L(N, D) in nats/token; `form_name` is its key in SURFACES.

    objective: the summed Huber loss of ln L, delta its bound; rmse: of ln L; centre: N0 and D0, the
    geometric means of the runs; condition: of the Jacobian with columns of length one; thetas: the
    estimate, then the draws, in the form's own parameters, from which it predicts without the
    rounding of large coefficients. Farseer's U, V and A are at N0 and D0; _slope is d ln U / d ln N
    there and _bend the exponent of N in ln U: gamma and a3 = U_slope / (gamma N0^gamma) of the
    paper, and likewise beta, a2 of V and alpha, a1 of A.
    """

    form_name: str
    delta: float
    rmse: float
    centre: tuple[float, float]
    share_at_best: float
    n_starts: int
    condition: float
    thetas: tuple[tuple[float, ...], ...]

    def predict(
        self, n_params: ArrayLike, n_tokens: ArrayLike, *, level: float = 0.95
    ) -> Prediction:
        """The loss in nats/token; the interval is of the law, without a run's own noise."""
        value, draws = self._of(n_params, n_tokens, np.array(self.thetas))
        return Prediction(value, *percentiles(draws, level), level)

    def loss(self, n_params: ArrayLike, n_tokens: ArrayLike) -> Array:
        """The loss in nats/token, without the interval."""
        return self._of(n_params, n_tokens, np.array(self.thetas[:1]))[0]

    def to_dict(self) -> dict[str, Any]:
        """As other fits; theta is the estimate, and its draws are left out."""
        found = super().to_dict()
        found["theta"] = found.pop("thetas")[0]
        return found

    def _of(self, n_params: ArrayLike, n_tokens: ArrayLike, thetas: Array) -> tuple[Array, Array]:
        N, D = np.broadcast_arrays(positive("n_params", n_params), positive("n_tokens", n_tokens))
        n, d = np.log(N / self.centre[0]).ravel(), np.log(D / self.centre[1]).ravel()
        found = np.exp(
            SURFACES[self.form_name].model(n, d, float(np.log(self.centre[1])))(thetas)[0]
        )
        return found[0].reshape(N.shape), found[1:].reshape(-1, *N.shape)


def fit_surface(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    form: SurfaceName = "farseer",
    *,
    delta: float = 1e-3,
    groups: ArrayLike | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> SurfaceFit:
    """Fits a surface by Huber's loss of ln L, summed; delta: inf for least squares.

    n_draws: of the bootstrap, of runs or of whole groups of them, as in fit_parametric, which says
    more of Chinchilla's form: the optimum of a budget and contours. Raises ValueError naming the
    first bad value or form; FitError where there are not more distinct runs than parameters, and
    where all sizes or all token counts are one, as then no exponent of it is identifiable.
    """
    if form not in SURFACES:
        raise ValueError(f"form={form!r} is not one of {', '.join(SURFACES)}")
    if not delta > 0:
        raise ValueError(f"delta={delta!r} must be above 0; inf is plain least squares")
    if n_draws < 0:
        raise ValueError(f"n_draws={n_draws} must be 0 or more")
    given = {"n_params": n_params, "n_tokens": n_tokens, "loss": loss}
    N, D, L = (positive(name, np.asarray(v, dtype=float).ravel()) for name, v in given.items())
    if not len(N) == len(D) == len(L):
        raise ValueError(f"columns of different lengths: {len(N)}, {len(D)}, {len(L)}")
    clusters = None if groups is None else cluster_codes(groups, len(L))
    spec = SURFACES[form]
    _refuse_few(form, len(spec.names), N, D)

    n0, d0 = float(np.log(N).mean()), float(np.log(D).mean())
    n, d, target = np.log(N) - n0, np.log(D) - d0, np.log(L)
    model, posed = spec.model(n, d, d0), spec.pose(n, d, d0, L)
    descend = partial(minimise, model, target, lower=posed.lower, upper=posed.upper, delta=delta)
    minima = descend(posed.starts)
    best = minima.best
    theta = minima.theta[best]
    share = float((minima.value <= minima.value[best] * (1 + _SAME) + 1e-25).mean())
    stuck = minima.at_bound[best] | (theta <= posed.lower) | (theta >= posed.upper)

    def of_free(at: Array) -> tuple[Array, Array]:
        value, jacobian = model(at)
        return value, jacobian[:, :, ~stuck]

    condition = condition_number(of_free, theta)
    warned = Warnings()
    for name, hit in zip(spec.names, stuck, strict=True):
        if hit:
            warned.add(f"{name} is at its bound", FitStatus.BOUND_HIT)
    if not minima.converged[best]:
        text = f"the descent did not converge: gradient {minima.gradient[best]:.1e}"
        warned.add(text, FitStatus.MAX_ITER)
    r = float(np.corrcoef(n, d)[0, 1])
    if abs(r) > _FIXED_RATIO:
        warned.add(
            f"ln N and ln D are collinear (r = {r:.4f}): what each does is not identifiable; vary "
            "N at each D"
        )
    elif condition > _COLLINEAR:
        warned.add(
            f"the parameters are hardly identifiable from these runs (condition number "
            f"{condition:.3g}): other values fit as well; see the intervals"
        )
    if share < _FEW_STARTS:
        warned.add(f"only {share:.0%} of {len(minima.value)} starts reached the best value")
    if len(L) < 2 * len(spec.names):
        warned.add(f"{len(L)} runs for {len(spec.names)} parameters: the intervals say little")
    for text in few_clusters(clusters):
        warned.add(text)
    counts = drawn_counts(len(L), n_draws, np.random.default_rng(seed), clusters)
    drawn = descend(np.repeat(theta[None], n_draws, axis=0), weights=counts)
    off = model(theta[None])[0][0] - target
    return SurfaceFit(
        form=spec.formula,
        names=spec.names,
        estimates=tuple(spec.natural(theta[None], n0, d0)[0].tolist()),
        n_points=len(L),
        objective=float(minima.value[best]),
        interval=describe_draws(n_draws, clusters),
        status=warned.status,
        warnings=tuple(warned.texts),
        draws=spec.natural(drawn.theta, n0, d0),
        form_name=form,
        delta=float(delta),
        rmse=float(np.sqrt(np.mean(off**2))),
        centre=(float(np.exp(n0)), float(np.exp(d0))),
        share_at_best=share,
        n_starts=len(posed.starts),
        condition=condition,
        thetas=tuple(map(tuple, np.vstack([theta[None], drawn.theta]).tolist())),
    )


def _refuse_few(form: str, n_params: int, N: Array, D: Array) -> None:
    distinct = len(np.unique(np.stack([N, D]), axis=1).T)
    if distinct <= n_params:
        raise FitError(f"{distinct} distinct runs: the {n_params} parameters of {form} need more")
    for name, values in (("sizes", N), ("token counts", D)):
        if np.ptp(np.log(values)) < 1e-9:
            raise FitError(f"all {name} are the same: their exponent in {form} is not identifiable")
