"""The result of an ablation: what the chosen experts' removal does, and that of as many others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments.inspection.ablation.intervals import Estimate, mean, ratio, weighted, with_draws

TARGET, SIBLINGS, CONTROLS, SPECIFICITY = "target", "siblings", "controls", "specificity"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The change of the loss, in nats (of a token where texts are read, of a whole target where
    facts are asked): without the chosen experts, without as many drawn ones of equal mass, and the
    difference of both. n_units: documents, windows or facts.
    """

    what: str
    chosen: Estimate
    random: Estimate
    excess: Estimate
    n_units: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablation:
    """experts: those that were removed; of facts with experts of their own, by line of the file.
    mass_ratio: the mass of drawn experts over that of the chosen, in all. units: a line a unit.
    """

    layer: str
    experts: Mapping[str, tuple[int, ...]]
    n_draws: int
    mass_ratio: float
    unit: str
    rows: tuple[Row, ...]
    units: pd.DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """The U units of one text: their tokens (U,), and the change of their nats without the
    chosen experts (U,) and without those of each draw (D, U).
    """

    name: str
    unit: np.ndarray
    tokens: np.ndarray
    chosen: np.ndarray
    drawn: np.ndarray

    def row(self) -> Row:
        return Row(
            what=self.name,
            chosen=ratio(self.chosen, self.tokens),
            random=with_draws(ratio(self.drawn.mean(0), self.tokens), self.by_draw()),
            excess=with_draws(ratio(self.chosen - self.drawn.mean(0), self.tokens), self.by_draw()),
            n_units=len(self.tokens),
        )

    def table(self) -> pd.DataFrame:
        """A line a unit, nats of it as a whole."""
        drawn = {f"random.{i}": values for i, values in enumerate(self.drawn, 1)}
        columns = {"text": self.name, "unit": self.unit, "tokens": self.tokens.astype(int)}
        return pd.DataFrame({**columns, "chosen": self.chosen, **drawn})

    def by_draw(self) -> np.ndarray:
        """(D,) nats a token."""
        found: np.ndarray = self.drawn.sum(1) / self.tokens.sum()
        return found


def rows_of_texts(changes: Sequence[Changes], target: str | None) -> tuple[Row, ...]:
    """A row a text; with a target, the specificity too: its change less the others' mean."""
    rows = tuple(one.row() for one in changes)
    others = [one for one in changes if one.name != target]
    if target is None or not others:
        return rows
    weights = [1.0 if one.name == target else -1 / len(others) for one in changes]
    draws = np.sum([w * one.by_draw() for w, one in zip(weights, changes, strict=True)], axis=0)

    def total(of: str) -> Estimate:
        parts = []
        for weight, one in zip(weights, changes, strict=True):
            drawn = one.drawn.mean(0)
            values = {"chosen": one.chosen, "random": drawn, "excess": one.chosen - drawn}[of]
            parts.append((weight, ratio(values, one.tokens)))
        return weighted(parts)

    specific = Row(
        what=SPECIFICITY,
        chosen=total("chosen"),
        random=with_draws(total("random"), draws),
        excess=with_draws(total("excess"), draws),
        n_units=sum(row.n_units for row in rows),
    )
    return (*rows, specific)


def rows_of_facts(
    chosen: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], *, one_choice: bool
) -> tuple[Row, ...]:
    """By what, the changes of F facts (F,), and of each draw of experts (D, F): rows of them, and
    of target less siblings. one_choice: the same experts for all facts, so that draws vary beside
    facts; else each fact has draws of its own, which vary with it.
    """
    chosen = {**chosen, SPECIFICITY: chosen[TARGET] - chosen[SIBLINGS]}
    drawn = {**drawn, SPECIFICITY: drawn[TARGET] - drawn[SIBLINGS]}

    def of_draws(values: np.ndarray, draws: np.ndarray) -> Estimate:
        return with_draws(mean(values), draws.mean(1)) if one_choice else mean(values)

    return tuple(
        Row(
            what=what,
            chosen=mean(values),
            random=of_draws(drawn[what].mean(0), drawn[what]),
            excess=of_draws(values - drawn[what].mean(0), drawn[what]),
            n_units=len(values),
        )
        for what, values in chosen.items()
    )
