"""How many seeds each difference needs for a half-width, and what so many seeds could show."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import Warned
from analysis.fitting.text import format_status, in_columns, pluralize
from analysis.planning.half_widths import detectable, half_width, seeds_planned
from analysis.planning.pair_noise import ALPHA, PairNoise, Pool

SEEDS = tuple(range(2, 13))  # numbers of seeds that tables have
POWERS = (0.8, 0.9)
_ALPHA = 0.05  # of the test that is to find a difference
_WORDS = {"all": "all cells", "model": "each model", "budget": "each budget", "cell": "each cell"}


@dataclass(frozen=True, kw_only=True)
class PairCell:
    """A model at one budget (FLOPs) and size beside the baseline, by n_pairs runs of one seed.

    difference: the mean loss minus the baseline's, in nats/token, with its interval; noise: of one
    pair; needed: the pairs that Stein's rule asks for, n_pairs at least, None above 100,000; runs
    and flops: those that are missing, the baseline's too.
    """

    model: str
    budget: float
    size: str
    n_pairs: int
    difference: Estimate
    noise: PairNoise
    needed: int | None
    runs: int
    flops: float

    @property
    def half_width(self) -> float:
        return (self.difference.upper - self.difference.lower) / 2


@dataclass(frozen=True, kw_only=True, repr=False)
class SeedPower(Warned):
    """Differences from a baseline at equal FLOPs, size and seed, and the seeds that they need.

    target: the half-width wanted in nats, at `level`; pool: over which cells the noise is pooled;
    chances: of cells' variances so unequal by noise alone, by each pooling that was tested; pilot:
    how many seeds of a cell the noise is of, None: all; left_out: cells with one pair; n_runs and
    flops: of all cells together, the baseline's runs once.
    """

    baseline: str
    level: float
    target: float
    pool: Pool
    chances: Mapping[Pool, float]
    pilot: int | None
    cells: tuple[PairCell, ...]
    left_out: int
    n_runs: int
    flops: float
    warnings: tuple[str, ...]

    @property
    def noises(self) -> tuple[PairNoise, ...]:
        return tuple(dict.fromkeys(cell.noise for cell in self.cells))

    @property
    def reached(self) -> tuple[PairCell, ...]:
        """Cells whose half-width is the target or less."""
        return tuple(cell for cell in self.cells if not cell.runs and cell.needed is not None)

    def to_frame(self) -> pd.DataFrame:
        """A row a cell."""
        return pd.DataFrame(
            [
                {
                    "model": cell.model,
                    "budget": cell.budget,
                    "size": cell.size,
                    "seeds": cell.n_pairs,
                    f"minus {self.baseline}": cell.difference.value,
                    "half-width": cell.half_width,
                    "needed": float("nan") if cell.needed is None else cell.needed,
                    "more runs": cell.runs,
                    "their FLOPs": cell.flops,
                }
                for cell in self.cells
            ]
        )

    def by_seeds(self) -> pd.DataFrame:
        """A row a noise and number of seeds, all of them planned beforehand: the half-width, and
        the smallest differences that are found significant with each of POWERS at .05, in nats.
        """
        rows = []
        for noise in self.noises:
            for k in SEEDS:
                dof = (k - 1) * noise.n_free
                found = {
                    f"power {power:g}": detectable(noise.sd, dof, k, power, _ALPHA)
                    for power in POWERS
                }
                half = half_width(noise.sd, dof, k, self.level)
                rows.append({"noise": noise.of, "seeds": k, "half-width": half, **found})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        cells = pluralize(len(self.cells), "cell")
        lines = [
            f"pairs of one seed at equal FLOPs and size, minus {self.baseline}: {cells}, "
            f"nats/token, {self.level:.0%} intervals",
            *self._of_noise(),
            "",
            "what so many seeds give, if their number is fixed beforehand:",
            self._by_seeds_text(),
            "",
            f"each cell, for a half-width of {self.target:g}:",
            self._cells_text(),
            self._total(),
        ]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

    def _of_noise(self) -> list[str]:
        tested = [f"over {_WORDS[pool]} p = {chance:.2g}" for pool, chance in self.chances.items()]
        how = f"equal variances ({'; '.join(tested)})" if tested else "as asked"
        lines = [f"noise pooled over {_WORDS[self.pool]}: {how}"]
        if self.pilot is not None:
            lines[0] += f", of the first {self.pilot} seeds of a cell"
        for noise in self.noises:
            low, high = noise.interval(self.level)
            planned = seeds_planned(noise.sd, noise.n_free, self.target, self.level)
            wanted = "more than 100,000" if planned is None else str(planned)
            lines.append(
                f"  {noise.of}: {noise.sd:.4f} ({low:.4f} to {high:.4f}), "
                f"{pluralize(noise.dof, 'degree')} of freedom; {wanted} seeds for "
                f"{self.target:g}"
            )
        return lines

    def _by_seeds_text(self) -> str:
        """A line for each noise and quantity, the numbers of seeds across."""
        frame = self.by_seeds()
        names = [name for name in frame if name not in ("noise", "seeds")]
        rows = []
        for noise, own in frame.groupby("noise", sort=False):
            for name in names:
                values = dict(zip(own["seeds"].astype(str), own[name].round(4), strict=True))
                rows.append({"noise": noise, "": name, **values})
        return pd.DataFrame(rows).to_string(index=False, float_format=lambda v: f"{v:.4f}")

    def _cells_text(self) -> str:
        frame = self.to_frame()
        frame["budget"] = frame["budget"].map(numbers.flops)
        frame["their FLOPs"] = frame["their FLOPs"].map(
            lambda value: numbers.flops(value) if value else "0"
        )
        frame["needed"] = frame["needed"].map(
            lambda value: ">100000" if np.isnan(value) else f"{int(value)}"
        )
        return in_columns(frame)

    def _total(self) -> str:
        done = f"{len(self.reached)} of {pluralize(len(self.cells), 'cell')} have it"
        if len(self.reached) == len(self.cells):
            return f"{done}: stop"
        return (
            f"{done}; the others need {pluralize(self.n_runs, 'run')} more, "
            f"{numbers.flops(self.flops)} FLOPs, the baseline's counted once"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the table of by_seeds."""
        found = super().to_dict()
        return {**found, "by_seeds": self.by_seeds().to_dict("records"), "alpha_pool": ALPHA}
