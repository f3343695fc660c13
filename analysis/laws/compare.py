"""Laws side by side: what a comparison shows, whichever way its runs were held out."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from analysis.fitting.average import akaike_weights, averaged, possible
from analysis.fitting.edges import edge_weights, pooled, with_usual_error
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus, find_status, worst_status
from analysis.fitting.text import in_columns, unsaid
from analysis.laws.forms import LAWS
from analysis.laws.result import FittedLaw

_FLOORED = 0.5  # least weight in predictions of the forms with an irreducible loss


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One form: rmse and held_out_rmse in nats/token, bias = mean of predicted - measured.

    rmse: over all runs; held_out: over those that a fit without them was asked for; nan if none.
    """

    form_name: str
    n_params: int
    rmse: float
    held_out_rmse: float
    held_out_bias: float
    status: FitStatus
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, fit: FittedLaw, off: Array, off_held: Array, **more: Any) -> Self:
        """From the errors of a fit, and those of a fit without the runs held out."""
        own: dict[str, Any] = {"status": fit.status, "warnings": fit.warnings, **more}
        return cls(
            form_name=fit.form_name,
            n_params=len(fit.names) - len(fit.fixed),
            rmse=float(np.sqrt(np.mean(off**2))),
            held_out_rmse=float(np.sqrt(np.mean(off_held**2))),
            held_out_bias=float(np.mean(off_held)),
            **own,
        )


@dataclass(frozen=True, kw_only=True)
class ComparedLaw(Compared):
    """With the AICc: infinite, and delta_aicc nan, where the runs are too few for it.

    weight: Akaike's, of the forms that were compared; edge_weight: by what they say of the edges
    that they were fitted without (fitting/edges.py), nan where none was withheld. Each sums to one.
    """

    aicc: float
    delta_aicc: float
    weight: float
    edge_weight: float


def with_weights(
    compared: Sequence[Compared], fits: Sequence[FittedLaw]
) -> tuple[ComparedLaw, ...]:
    """Forms with what the AICc of their fits say beside each other, and the edges."""
    aicc = [fit.aicc for fit in fits]
    least, weights = min(aicc), akaike_weights(aicc)
    by_edges = edge_weights({fit.form_name: fit for fit in fits})
    return tuple(
        ComparedLaw(
            **{field.name: getattr(one, field.name) for field in fields(one)},
            aicc=own,
            delta_aicc=own - least if np.isfinite(own) else float("nan"),
            weight=float(weight),
            edge_weight=by_edges.get(one.form_name, float("nan")),
        )
        for one, own, weight in zip(compared, aicc, weights, strict=True)
    )


def with_weight(weights: Mapping[str, float]) -> str:
    """Each form with its share of their weight: "clark (weight 0.7), loglinear (weight 0.3)"."""
    return ", ".join(f"{name} (weight {w:.2g})" for name, w in weights.items())


def _kept(weights: Mapping[str, float]) -> dict[str, float]:
    """Those with 99 % of the weight, the largest first; none where one is not known."""
    if not np.isfinite(list(weights.values())).all():
        return {}
    ordered = sorted(weights.items(), key=lambda pair: pair[1], reverse=True)
    kept = possible(np.array([weight for _, weight in ordered]))
    return {name: weight for (name, weight), k in zip(ordered, kept, strict=True) if k}


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Result):
    """Forms in their order, on the same n_points runs.

    held_out: which runs held_out_rmse is of, in words; fits: to all runs; skipped: what could not
    be fitted, and why.
    """

    columns: ClassVar[tuple[str, ...]]
    n_points: int
    held_out: str
    fits: tuple[FittedLaw, ...]
    skipped: tuple[str, ...]

    @property
    @abstractmethod
    def compared(self) -> Sequence[ComparedLaw]:
        """A row a form."""

    @property
    @abstractmethod
    def disagreement(self) -> list[str]:
        """Where the comparison does not choose."""

    @property
    def possible(self) -> dict[str, float]:
        """Form -> weight of those that the runs don't exclude, the likeliest first.

        The fewest that have 99 % of the weight; none without an AICc.
        """
        return _kept({law.form_name: law.weight for law in self.compared})

    @property
    def predicting(self) -> dict[str, float]:
        """Form -> weight of those that predictions average: the possible ones; half of the weight
        is by the edges where these disagree (fitting/edges.py), and half at least is of forms with
        an irreducible loss, where some were compared: without one a law falls below any text's.
        """
        own = {law.form_name: law.weight for law in self.compared}
        if not np.isfinite(list(own.values())).all():
            return {}
        by_edges = {law.form_name: law.edge_weight for law in self.compared}
        if np.isfinite(list(by_edges.values())).all():
            own = pooled(own, by_edges)
        aicc = {law.form_name: law.aicc for law in self.compared if LAWS[law.form_name].has_floor}
        floored = sum(own[form] for form in aicc)
        if aicc and floored < _FLOORED:
            shares = akaike_weights(list(aicc.values())).tolist()
            least = dict(zip(aicc, shares, strict=True))
            own = {
                form: (1 - _FLOORED) * w / (1 - floored)
                if form not in aicc
                else _FLOORED * least[form]
                for form, w in own.items()
            }
        return _kept(own)

    @property
    def _extrapolates(self) -> list[str]:
        """Warning that predictions weigh other forms than those that fit best."""
        possible, predicting = self.possible, self.predicting
        if set(predicting) <= set(possible):
            return []
        first = next(iter(possible))
        more = ", ".join(form for form in predicting if form not in possible)
        says = "says the largest runs, withheld, worse than others"
        why = says if LAWS[first].has_floor else "has no irreducible loss"
        return [
            f"{first} fits best, and {why}: predictions weigh {more} too, and their intervals hold "
            "all"
        ]

    @property
    def in_words(self) -> str:
        """Possible forms with their weights."""
        return with_weight(self.possible)

    @property
    def by(self) -> str:
        """Forms that predictions average, with their weights."""
        return with_weight(self.predicting)

    def _averaged(
        self,
        ask: Callable[[Any], Prediction],
        level: float,
        weights: Mapping[str, float] | None = None,
    ) -> Prediction:
        """Average of the `predicting` laws, or of these: see analysis.fitting.average.

        Raises ValueError where no form has an AICc.
        """
        weights = self.predicting if weights is None else weights
        if not weights:
            raise ValueError("no form has an AICc to be weighted by: predict by one of fits")
        fits = {fit.form_name: fit for fit in self.fits}
        shares = list(weights.values())
        alone = [ask(fits[name].alone).on(np.log) for name in weights]
        whole = [ask(fits[name]).on(np.log) for name in weights]
        found = with_usual_error(averaged(alone, shares, level), alone, whole, shares)
        return found.on(np.exp)

    @property
    def _none_excluded(self) -> list[str]:
        """Warning that several forms are left."""
        if len(self.possible) < 2:
            return []
        return [
            f"these runs exclude none of {self.in_words}: no one of them is the law, and the "
            "parameters of each hold only if it is"
        ]

    @abstractmethod
    def _heading(self) -> str:
        """Summary's first line."""

    @property
    def status(self) -> FitStatus:
        """Worst of the forms'; WARNING at least if there are warnings."""
        return worst_status([find_status(self.warnings), *(one.status for one in self.compared)])

    @property
    def warnings(self) -> tuple[str, ...]:
        own = [f"{one.form_name}: {text}" for one in self.compared for text in one.warnings]
        return (*self.of_table, *own, *self.disagreement)

    def to_frame(self) -> pd.DataFrame:
        """A row a form."""
        return pd.DataFrame([{n: getattr(one, n) for n in self.columns} for one in self.compared])

    def summary(self) -> str:
        rest = [*unsaid(self.warnings), *(f"skipped {s}" for s in self.skipped)]
        table = in_columns(self.to_frame())
        return "\n".join([self._heading(), table, *(f"  note: {line}" for line in rest)])

    def to_dict(self) -> dict[str, Any]:
        fits = {fit.form_name: fit.to_dict() for fit in self.fits}
        return {**super().to_dict(), "fits": fits}
