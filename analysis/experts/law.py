"""A fitted law of experts: what it predicts, and for a run that is not there yet."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from analysis.experts.forms import FORMS
from analysis.fitting.checks import check_level, check_sparsity, positive
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.results import DrawsFit

Residual = Literal["log", "loss"]


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpertLawFit(DrawsFit):
    """A law of the loss in size N and experts E; `form_name` is its key in FORMS.

    residual: what was fitted, ln L ("log") or L in nats/token ("loss"); objective: half the sum of
    its squared residuals; rmse: of ln L whatever the residual; scatter: standard deviation of a run
    about the law, of the residual, with dof degrees of freedom; aicc: corrected Akaike criterion of
    these residuals, comparable between forms on the same runs; sizes, experts: those
    of the runs; size_name: the column that N is; baseline: the model counted as one expert;
    condition: of the Jacobian with columns of length one, over the parameters free to move.
    """

    form_name: str
    model: str
    baseline: str | None
    size_name: str
    sizes: tuple[float, ...]
    experts: tuple[float, ...]
    residual: Residual
    rmse: float
    scatter: float
    dof: int
    aicc: float
    share_at_best: float
    n_starts: int
    condition: float

    @property
    def of_experts_alone(self) -> bool:
        """Whether a size and a number of experts are all that the law is in."""
        return FORMS[self.form_name].needs == ("n_experts",)

    def predict(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None = None,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
        sparsity: ArrayLike | None = None,
        *,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """The loss in nats/token, with the interval of the law or, new_run, of one more run there.

        Of n_experts, n_tokens, granularity and sparsity (0 to 1, the share of experts that is not
        active) what the form needs. The interval of a new run has the law's interval and the
        scatter of the runs about the law, by Student's t, combined as independent: it supposes that
        the scatter is the same there. Raises ValueError if what the form needs is not given, or is
        not above 0.
        """
        arrays = self._arguments(size, n_experts, n_tokens, granularity, sparsity)
        law = self._over_draws(lambda p: np.exp(self.log_loss(p, *arrays)), level)
        return self._with_scatter(law) if new_run else law

    def _with_scatter(self, law: Prediction) -> Prediction:
        """On the scale of the residuals, where their scatter is one number."""
        to, back = (np.log, np.exp) if self.residual == "log" else (np.array, np.array)
        own = t_quantile(self.dof, law.level) * self.scatter
        value = to(law.value)
        down = np.hypot(value - to(law.lower), own)
        up = np.hypot(to(law.upper) - value, own)
        return Prediction(law.value, back(value - down), back(value + up), law.level)

    def loss(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None = None,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
        sparsity: ArrayLike | None = None,
    ) -> Array:
        """The loss in nats/token, without the interval that predict needs all draws for."""
        arrays = self._arguments(size, n_experts, n_tokens, granularity, sparsity)
        return np.exp(self.log_loss(np.array(self.estimates), *arrays))

    def slope(
        self,
        size: ArrayLike,
        n_experts: ArrayLike,
        level: float = 0.95,
        *,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
    ) -> Prediction:
        """-d ln L / d ln E there: the gain of more experts, by central differences.

        n_tokens and granularity: for the forms that need them. Raises ValueError for the laws of
        granularity alone and of sparsity, which have no E.
        """
        N, E, *rest = self._with_experts(size, n_experts, n_tokens, granularity)

        def of(p: Array) -> Array:
            h = 1e-4
            up, down = (self.log_loss(p, N, E * np.exp(s), *rest) for s in (h, -h))
            return -(up - down) / (2 * h)

        return self._over_draws(of, level)

    def cutoff_interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """N_cutoff, the size at which more experts cease to help, as an interval only.

        10^(-b/c) of Clark's forms (eq. 8): a quotient of two correlated numbers, so barely
        identified that a point would mislead. Infinite where c is not above 0; None for forms
        that have no such size, or without draws.
        """
        check_level(level)
        if self.form_name not in ("loglinear", "clark") or self.fixed or not len(self.draws):
            return None
        b, c = self.draws[:, 1], self.draws[:, 2]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            cutoff = np.where(c > 0, 10.0 ** np.minimum(-b / c, 300), np.inf)
        low, high = np.quantile(cutoff, [(1 - level) / 2, (1 + level) / 2], method="nearest")
        return float(low), float(high)

    def log_loss(
        self,
        params: Array,
        N: Array,
        E: Array,
        D: Array | None = None,
        G: Array | None = None,
        S: Array | None = None,
    ) -> Array:
        """ln L by any parameters of this form (in the order of `names`), e.g. a draw."""
        return FORMS[self.form_name].log_loss(params, N, E, D, G, S)

    def _over_draws(self, of: Callable[[Array], Array], level: float) -> Prediction:
        """A function of the parameters and its interval; draws where it is nan are left out."""
        check_level(level)
        value = of(np.array(self.estimates))
        if not len(self.draws):
            nothing = np.full(np.shape(value), np.nan)
            return Prediction(value, nothing, nothing, level)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # nan then, as it should be
            drawn = np.stack([of(p) for p in self.draws])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _arguments(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None,
        n_tokens: ArrayLike | None,
        granularity: ArrayLike | None,
        sparsity: ArrayLike | None = None,
    ) -> list[Array]:
        """N, E, D, G and S of one shape; 1, and S = 0, for what is not given."""
        given = {"n_experts": n_experts, "n_tokens": n_tokens, "granularity": granularity}
        both = {**given, "sparsity": sparsity}
        absent = [name for name in FORMS[self.form_name].needs if both[name] is None]
        if absent:
            raise ValueError(f"the law {self.form_name} is in {' and '.join(absent)} too: give it")
        columns = [positive(n, 1.0 if v is None else v) for n, v in {"size": size, **given}.items()]
        columns.append(check_sparsity(0.0 if sparsity is None else sparsity))
        return list(np.broadcast_arrays(*columns))

    def _with_experts(
        self,
        size: ArrayLike,
        n_experts: ArrayLike,
        n_tokens: ArrayLike | None,
        granularity: ArrayLike | None,
    ) -> list[Array]:
        if "n_experts" not in FORMS[self.form_name].needs:
            variables = {"granularity": "G, N and D", "sparsity": "S, N and D"}[self.form_name]
            raise ValueError(f"the {self.form_name} law has no number of experts, only {variables}")
        return self._arguments(size, n_experts, n_tokens, granularity)
