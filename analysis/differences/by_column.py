"""Models compared at each value of a column, e.g. with and without query norm at each N."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Table
from analysis.differences.models import (
    Differences,
    ModelMean,
    SeedNoise,
    busiest_budget,
    compare_models,
    seed_noise,
)
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.table.layer import find_column
from analysis.table.load import finished, rows_with
from analysis.table.warned import warned

_NO_PARTS = {
    "budget": "differences are of one budget, which budget=FLOPS says",
    **dict.fromkeys(("model", "series"), "the models are what is compared"),
    "loss": "losses are what is compared",
}


@dataclass(frozen=True, kw_only=True, repr=False)
class DifferencesBy(Comparison):
    """parts: of each value of the column `by`, as text; average: model -> its mean difference over
    all of them, in nats/token.
    """

    by: str
    parts: Mapping[str, Differences]
    average: Mapping[str, Estimate]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the parts, each with its value of the column."""
        parts = self.parts.items()
        found = [f"{self.by}={value}: {text}" for value, part in parts for text in part.warnings]
        return (*self.of_table, *found)

    def to_frame(self) -> pd.DataFrame:
        """A row a value and model, the column first."""
        frames = [part.to_frame().assign(**{self.by: value}) for value, part in self.parts.items()]
        table = pd.concat(frames, ignore_index=True)
        return table[[self.by, *(name for name in table if name != self.by)]]

    def to_dict(self) -> dict[str, Any]:
        """Each part with its own status and warnings."""
        return {**super().to_dict(), "parts": {k: v.to_dict() for k, v in self.parts.items()}}

    def tables(self) -> list[Table]:
        """Average over all values, a row a model, the lowest first."""
        if not self.average:
            return []
        baseline = next(iter(self.parts.values())).baseline
        means = sorted(self.average.items(), key=lambda item: item[1].value)
        return [
            Table(
                rows=[_Average(*item) for item in means],
                columns="model, minus {}=difference",
                named=baseline,
                digits=5,
                head=[f"on the average of {len(self.parts)} {self.by}, nats/token:"],
            )
        ]

    def summary(self) -> str:
        """Each part with its own warnings, then the average."""
        texts = [f"{self.by}={value}: {part.summary()}" for value, part in self.parts.items()]
        return "\n\n".join([*texts, *(table.text() for table in self.tables())])


class _Average(NamedTuple):
    model: str
    difference: Estimate


@warned()
def compare_by(
    table: pd.DataFrame,
    by: str,
    baseline: str = "dense",
    *,
    budget: float | None = None,
    level: float = 0.95,
    noise: SeedNoise | None = None,
) -> DifferencesBy:
    """compare_models at each value that a column has at the budget, all with the budget's noise, or
    with another's if that is given.

    So one value with several seeds is enough, and the others' noise is taken to be the same; by
    n_layers it compares whole isoFLOP curves. Series, the baseline too, are named by what varies
    at one value. The average is of those models that every value has, each value counting the same.
    Raises ValueError as keep_rows and compare_models do.
    """
    column = find_column(table, by)
    if column not in table:
        raise ValueError(f"by={by!r} is no column; found {', '.join(map(str, table))}")
    if by in _NO_PARTS:
        raise ValueError(
            f"by={by!r} must be a setting that models are compared at, e.g. n_layers; "
            f"{_NO_PARTS[by]}"
        )
    budget = busiest_budget(table) if budget is None else budget
    at_budget = table[table["budget"] == budget]
    noise = noise or seed_noise(table, budget=budget)
    values = finished(at_budget)[column].drop_duplicates().sort_values()
    texts = ["" if pd.isna(value) else str(value) for value in values]
    parts = {
        text: compare_models(
            rows_with(table, {by: [text]}), baseline, budget=budget, level=level, noise=noise
        )
        for text in texts
    }
    found = [{m.model: m for m in part.means} for part in parts.values()]
    width = t_quantile(noise.dof, level) * noise.sd
    return DifferencesBy(
        by=by,
        parts=parts,
        average={
            model: _average([(part[model], part[baseline]) for part in found], width)
            for model in found[0]
            if model != baseline and all(model in part for part in found)
        },
    )


def _average(pairs: Sequence[tuple[ModelMean, ModelMean]], width: float) -> Estimate:
    """Mean of differences that share no run; width: half the interval of a single run."""
    value = float(np.mean([model.difference.value for model, _ in pairs]))
    squares = sum(1 / model.n_seeds + 1 / baseline.n_seeds for model, baseline in pairs)
    return Estimate.around(value, width * float(np.sqrt(squares)) / len(pairs))
