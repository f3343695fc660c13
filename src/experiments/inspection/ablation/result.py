"""What an ablation found: changes of losses by unit, their intervals by Student's t, and its files.

A unit is a document or a window of a text, which weighs as much as it has tokens, or a fact.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from experiments.system.csv_text import to_csv
from experiments.system.regular_files import MOST, regular
from experiments.system.several_files import NotWholeError, read_list, settle, write_together

LEVEL = 0.95
FEWEST = 20  # units, below which an interval says little, and one fact nothing
TARGET, SIBLINGS, CONTROLS, SPECIFICITY = "target", "siblings", "controls", "specificity"
_PARTS = ("chosen", "random", "excess")
_AGAIN = "the question is asked again"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, the variance of its error, and the degrees of freedom that this is known by."""

    value: float
    variance: float
    df: float

    def interval(self) -> tuple[float, float]:
        """Low and high, of LEVEL."""
        half = float(student.ppf((1 + LEVEL) / 2, self.df)) * math.sqrt(self.variance)
        return self.value - half, self.value + half


def ratio(totals: np.ndarray, sizes: np.ndarray) -> Estimate:
    """Sum of totals (U,) over the sum of sizes (U,), as nats over tokens, of at least two units
    that are drawn independently. The variance is the linearised one (Cochran 1977, Sampling
    Techniques, §6.4); of equal sizes it is that of a mean.
    """
    n, size = len(totals), float(np.sum(sizes))
    value = float(np.sum(totals)) / size
    off = totals - value * sizes
    return Estimate(value=value, variance=n / (n - 1) * float(np.sum(off**2)) / size**2, df=n - 1)


def mean(values: np.ndarray) -> Estimate:
    """That of units (U,) of equal size."""
    return ratio(values, np.ones(len(values)))


def weighted(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """A sum of independent estimates times weights; df by Welch & Satterthwaite."""
    each = [(weight**2 * part.variance, part.df) for weight, part in parts]
    variance = sum(v for v, _ in each)
    below = sum(v**2 / df for v, df in each)
    return Estimate(
        value=sum(weight * part.value for weight, part in parts),
        variance=variance,
        df=variance**2 / below if below else min(df for _, df in each),
    )


def with_draws(estimate: Estimate, draws: np.ndarray) -> Estimate:
    """Of a mean over D draws of experts, too: units are others in another sample, and so are the
    experts that are drawn. estimate: of units, for these draws; draws (D,): the value of each.

    Both variances are added. What both have in common is counted twice then, so that an interval
    is rather too wide than too narrow.
    """
    return weighted(((1.0, estimate), (1.0, replace(mean(draws), value=0.0))))


@dataclass(frozen=True, kw_only=True)
class Row:
    """Change of the loss, in nats (of a token where texts are read, of a whole target where
    facts are asked): without the chosen experts, without as many drawn ones of equal mass, and the
    difference of both. n_units: documents, windows or facts.
    """

    what: str
    chosen: Estimate
    random: Estimate
    excess: Estimate
    n_units: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """U units: their sizes in tokens (U,), 1 of a fact, and the change of their nats without the
    chosen experts (U,) and without those of each draw (D, U).
    """

    name: str
    unit: np.ndarray
    tokens: np.ndarray
    chosen: np.ndarray
    drawn: np.ndarray

    def table(self, **about: Any) -> pd.DataFrame:
        """A line a unit, nats of it as a whole. about: more columns, the first ones."""
        drawn = {f"random.{i}": values for i, values in enumerate(self.drawn, 1)}
        return pd.DataFrame({**about, "chosen": self.chosen, **drawn})


def make_row(what: str, parts: Sequence[tuple[float, Changes]], *, draws: bool = True) -> Row:
    """Row of the sum of changes times weights. draws: whether these vary beside the units."""
    by_draw = np.sum([w * one.drawn.sum(1) / one.tokens.sum() for w, one in parts], axis=0)

    def estimate(of: Callable[[Changes], np.ndarray], drawn: bool) -> Estimate:
        found = weighted([(w, ratio(of(one), one.tokens)) for w, one in parts])
        return with_draws(found, by_draw) if drawn else found

    return Row(
        what=what,
        chosen=estimate(lambda one: one.chosen, False),
        random=estimate(lambda one: one.drawn.mean(0), draws),
        excess=estimate(lambda one: one.chosen - one.drawn.mean(0), draws),
        n_units=sum(len(one.unit) for _, one in parts),
    )


def rows_of_texts(changes: Sequence[Changes], target: str | None) -> tuple[Row, ...]:
    """A row a text; with a target, the specificity too: its change less the others' mean."""
    rows = [make_row(one.name, [(1.0, one)]) for one in changes]
    n_others = sum(one.name != target for one in changes)
    if target is not None and n_others:
        parts = [(1.0 if one.name == target else -1 / n_others, one) for one in changes]
        rows.append(make_row(SPECIFICITY, parts))
    return tuple(rows)


def rows_of_facts(changes: Sequence[Changes], *, one_choice: bool) -> tuple[Row, ...]:
    """A row for the target, its siblings, and controls if there are; and for target less siblings.
    one_choice: the same experts for all facts; else each fact has draws of its own, which vary
    with it.
    """
    own, others = changes[:2]
    both = {"chosen": own.chosen - others.chosen, "drawn": own.drawn - others.drawn}
    every = (*changes, replace(own, name=SPECIFICITY, **both))
    return tuple(make_row(one.name, [(1.0, one)], draws=one_choice) for one in every)


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


def _place(folder: Path, identity: Mapping[str, Any]) -> Path:
    """NAME.json by a hash of what was asked, so that no ablation takes another's place."""
    text = json.dumps(identity, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def write_ablation(folder: Path, result: Ablation, identity: Mapping[str, Any]) -> Path:
    """Writes NAME.csv, a line a row; NAME.units.csv, a line a unit; and NAME.json, which lists
    both. Returns its path.
    """
    path = _place(folder, identity)
    content = {"identity": identity, "level": LEVEL, **asdict(result)}
    del content["units"]
    files = {f"{path.stem}.csv": to_csv(rows_frame(result)), _units(path): to_csv(result.units)}
    write_together(path, content, files)
    return path


def _units(path: Path) -> str:
    return f"{path.stem}.units.csv"


def read_ablation(folder: Path, identity: Mapping[str, Any]) -> Ablation | None:
    """Answer that was written of it; None if nothing was. Raises NotWholeError for what is
    not as it was written.
    """
    path = _place(folder, identity)
    settle(path)
    if not path.exists():
        return None
    try:
        listed = read_list(path)
        content = listed.values
        rows = [
            Row(
                what=row["what"],
                n_units=row["n_units"],
                **{part: Estimate(**row[part]) for part in _PARTS},
            )
            for row in content["rows"]
        ]
        if wrong := listed.wrong():
            raise NotWholeError(folder, wrong, _AGAIN)
        return Ablation(
            **{key: content[key] for key in ("layer", "n_draws", "mass_ratio", "unit")},
            experts={key: tuple(own) for key, own in content["experts"].items()},
            rows=tuple(rows),
            units=pd.read_csv(regular(folder / _units(path), MOST)),
        )
    except NotWholeError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NotWholeError(folder, {path.name: f"is no ablation ({error})"}, _AGAIN) from None


def rows_frame(result: Ablation) -> pd.DataFrame:
    """A line a row: value, low and high of each part."""
    lines = []
    for row in result.rows:
        line: dict[str, Any] = {"what": row.what, "n_units": row.n_units}
        for part in _PARTS:
            estimate = getattr(row, part)
            low, high = estimate.interval()
            line |= {part: estimate.value, f"{part}_low": low, f"{part}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)
