"""Differences from a baseline after correction for their number."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy import stats

from analysis.comparison import Comparison, Table
from analysis.differences.models import Differences

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True, repr=False)
class Corrected(Comparison):
    """differences, and of each model but the baseline p, two-sided, of no difference: p alone, and
    p_holm after Holm's correction for all of them.
    """

    differences: Differences
    p: Mapping[str, float]
    p_holm: Mapping[str, float]

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.of_table, *self.differences.warnings)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "differences": self.differences.to_dict()}

    def tables(self) -> list[Table]:
        (table,) = self.differences.tables()
        nan = float("nan")
        chances = {
            name: [values.get(m.model, nan) for m in self.differences.means]
            for name, values in (("p", self.p), ("p_holm", self.p_holm))
        }
        return [replace(table, beside=chances)]


def holm(differences: Differences) -> Corrected:
    """Chance of one wrong "significant" among all differences is p_holm at most, however they
    depend on one another (Holm 1979, Scandinavian Journal of Statistics 6, 65-70): the smallest p
    times their number, the next times one less and no smaller than that one, and so on.
    """
    noise, means = differences.noise, differences.means
    to = next(m for m in means if m.model == differences.baseline)
    p = {}
    for m in means:
        if m is not to:
            sd = noise.sd * float(np.sqrt(1 / m.n_seeds + 1 / to.n_seeds))
            p[m.model] = 2 * float(stats.t.sf(abs(m.difference.value) / sd, noise.dof))
    return Corrected(differences=differences, p=p, p_holm=corrected(p))


def corrected(p: Mapping[K, float]) -> dict[K, float]:
    """Holm's correction of chances by name; nan, a test that could not be made, is the largest."""
    found, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=lambda name: np.nan_to_num(p[name], nan=2.0))):
        least = found[name] = max(least, min(1.0, (len(p) - i) * p[name]))
    return found
