"""A fitted law of experts: what it predicts, and for a run that is not there yet."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.average import akaike
from analysis.fitting.checks import check_level, check_sparsity, positive
from analysis.fitting.intervals import Array, Prediction
from analysis.laws.law import Variables
from analysis.laws.result import FittedLaw


@dataclass(frozen=True, kw_only=True, repr=False)
class ExpertLawFit(FittedLaw):
    """A law of the loss in size N and experts E, by least squares.

    sizes, experts: those of the runs; size_name: the column that N is; baseline: the model counted
    as one expert.
    """

    model: str
    baseline: str | None
    size_name: str
    sizes: tuple[float, ...]
    experts: tuple[float, ...]

    @property
    def aicc(self) -> float:
        """Corrected Akaike criterion, comparable between forms on the same runs."""
        return akaike(2 * self.objective, self.n_points, self.n_free)

    @property
    def of_experts_alone(self) -> bool:
        """Whether a size and a number of experts are all that the law is in."""
        return self.law.needs == ("n_experts",)

    def to_dict(self) -> dict[str, Any]:
        """As other fits, with the scatter and the AICc."""
        more = {"scatter": self.scatter, "dof": self.dof}
        return {**super().to_dict(), **more, "aicc": self.aicc if np.isfinite(self.aicc) else None}

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
        """Loss in nats/token, with the interval of the law or, new_run, of one more run there.

        Of n_experts, n_tokens, granularity and sparsity (0 to 1, the share of experts that is not
        active) what the form needs. The interval of a new run has the law's interval and the
        scatter of the runs about the law, by Student's t, combined as independent: it supposes that
        the scatter is the same there. Raises ValueError if what the form needs is not given, or is
        not above 0.
        """
        law = self._predict(self._at(size, n_experts, n_tokens, granularity, sparsity), level)
        return self._with_scatter(law) if new_run else law

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
        if "E" not in self.law.variables:
            *most, last = sorted(self.law.variables, key="GSND".index)
            raise ValueError(
                f"the {self.form_name} law has no number of experts, only {', '.join(most)} and "
                f"{last}"
            )
        at, h = self._at(size, n_experts, n_tokens, granularity, None), 1e-4
        more, fewer = (
            self.law.model(
                Variables.of(at.N, at.D, at.E * np.exp(s), at.G, at.S).flat(), self.centre
            )
            for s in (h, -h)
        )

        def of(thetas: Array) -> tuple[Array, Array]:
            pairs = zip(more(thetas), fewer(thetas), strict=True)
            value, jacobian = (-(up - down) / (2 * h) for up, down in pairs)
            return value, jacobian

        found = self._with_interval(of, level)
        middle, low, high = (v.reshape(at.shape)[()] for v in found[:3])
        return Prediction(middle, low, high, level)

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

    def _at(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None,
        n_tokens: ArrayLike | None,
        granularity: ArrayLike | None,
        sparsity: ArrayLike | None,
    ) -> Variables:
        """1, and S = 0, for what is not given and not needed."""
        given = {"n_experts": n_experts, "n_tokens": n_tokens, "granularity": granularity}
        both = {**given, "sparsity": sparsity}
        absent = [name for name in self.law.needs if both[name] is None]
        if absent:
            raise ValueError(f"the law {self.form_name} is in {' and '.join(absent)} too: give it")
        N, E, D, G = (
            positive(n, 1.0 if v is None else v) for n, v in {"size": size, **given}.items()
        )
        return Variables.of(N, D, E, G, check_sparsity(0.0 if sparsity is None else sparsity))
