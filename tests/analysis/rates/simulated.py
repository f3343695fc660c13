"""Tables of tuned runs of curves that are known, and how often intervals hold the truth.

python -m tests.analysis.rates.simulated [DRAWS [SEED [METHOD [CURVE]]]]: the tables of
docs/rates.md.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.rates.fit import Rates, fit_rates
from analysis.table.load import check_table

SIZES, TOKENS = 1e7 * 3.0 ** np.arange(4), 1e9 * 3.0 ** np.arange(4)
TRUE = {"n_params": -0.70, "n_tokens": 0.30}
NOISE = 0.003  # nats


def best(n_params, n_tokens):
    return 0.01 * (n_params / 1e7) ** TRUE["n_params"] * (n_tokens / 1e9) ** TRUE["n_tokens"]


def _steep(x):
    """Nearly linear below and quartic above."""
    return np.where(x < 0, 0.25 * (np.sqrt(1 + 0.4 * x**2) - 1), 0.05 * x**2 * (1 + 0.5 * x**2))


def _plateau(x):
    return np.where(x < 0, 0.2 * (1 - np.exp(-(x**2) / 4)), 0.05 * x**2)


def _wall(x):
    """Steeper than any curve of the family, up to a cliff."""
    above = 0.04 * (np.expm1(-0.5 * x) + 0.5 * x) + 0.008 * (np.expm1(3 * x) - 3 * x)
    return np.minimum(above, 4.0)


CURVES: dict[str, Callable] = {  # nats above the lowest loss, of x = ln(rate / best rate)
    "parabola": lambda x: 0.05 * x**2,
    "skewed": lambda x: 0.06 * (np.expm1(x) - x),
    "steep": _steep,
    "plateau": _plateau,
    "wall": _wall,
}
INSIDE = ("parabola", "skewed")  # the family that is fitted


@dataclass(frozen=True, kw_only=True)
class Setting:
    """4 sizes by 4 lengths, n_rates each a factor 2 apart. near: about each cell's own best rate,
    off by up to half a step; else one grid for all. off: ln of the grid's middle beside the mean
    best rate. lost: runs diverge at this ln(rate / best rate).
    """

    curve: str
    near: bool
    n_rates: int
    seeds: int = 1
    off: float = 0.0
    lost: float = np.inf

    @property
    def label(self) -> str:
        more = [f"{self.seeds} seeds"] * (self.seeds > 1)
        more += ["off by a factor e"] * (self.off != 0)
        more += ["diverged above"] * bool(np.isfinite(self.lost))
        return ", ".join([self.curve, "near" if self.near else "shared", *more])

    def table(self, rng):
        places = [(N, D) for N in SIZES for D in TOKENS]
        middle = np.mean([np.log(best(*place)) for place in places])
        grid = (np.arange(self.n_rates) - (self.n_rates - 1) / 2) * np.log(2) + self.off
        rows = []
        for N, D in places:
            lowest = np.log(best(N, D))
            about = lowest + rng.uniform(-0.5, 0.5) * np.log(2) if self.near else middle
            for u in about + grid:
                above = float(CURVES[self.curve](np.array(u - lowest)))
                for seed in range(self.seeds):
                    lost = u - lowest > self.lost
                    loss = np.nan if lost else 3 + above + NOISE * rng.normal()
                    rows.append((N, D, np.exp(u), seed, "diverged" if lost else "done", loss))
        names = ["n_params", "n_tokens", "lr", "seed", "status", "loss"]
        return check_table(pd.DataFrame(rows, columns=names).assign(model="dense"))


@dataclass(frozen=True, kw_only=True)
class Held:
    """Shares over all draws. cell: of intervals of a cell's rate that hold it; silent: of those
    that do not, and whose cell has no flag; flagged: of cells;
    exponents: of laws of size and length, for the worse of the two; beyond: of predictions at ten
    times the largest size times length; off: the mean error of ln(rate) inside of the grids; law:
    of draws whose law says of itself that it may be wrong, or is of cells that mostly do.
    """

    cell: float
    silent: float
    flagged: float
    off: float
    exponents: float
    beyond: float
    law: float


def held(setting: Setting, n_draws: int, seed: int, **how) -> Held:
    rng = np.random.default_rng(seed)
    found = [_held_by(fit_rates(setting.table(rng), **how)) for _ in range(n_draws)]
    cells = np.concatenate([one[0] for one in found])
    laws = np.array([one[1] for one in found])
    known = np.isfinite(cells[:, 0])
    return Held(
        cell=float(cells[known, 0].mean()) if known.any() else float("nan"),
        silent=float(((cells[:, 0] == 0) & (cells[:, 1] == 0)).sum() / max(known.sum(), 1)),
        flagged=float(cells[:, 1].mean()),
        off=float(np.nanmean(cells[:, 2])),
        exponents=float(laws[:, :2].mean(axis=0).min()),
        beyond=float(laws[:, 2].mean()),
        law=float(laws[:, 3].mean()),
    )


def _held_by(found: Rates):
    """A row a cell: held (nan where there is no interval), flagged, error; a row of the law."""
    cells = []
    for cell in found.cells:
        true, (low, high) = best(*(cell.at[name] for name in TRUE)), cell.lr_interval
        off = np.log(cell.lr_opt / true) if cell.inside else np.nan
        is_held = float(low <= true <= high) if not np.isnan(low) else np.nan
        cells.append((is_held, float(bool(cell.flags)), off))
    flagged = np.mean([bool(cell.flags) for cell in found.cells]) > 0.5
    if not found.forms:
        return np.array(cells), (np.nan, np.nan, np.nan, 1.0)
    (forms,) = found.forms
    (law,) = [one for one in forms.laws if one.columns == tuple(TRUE)]
    ends = [law.bounds(f"exponent[{name}]") for name in TRUE]
    hits = [low <= true <= high for (low, high), true in zip(ends, TRUE.values(), strict=True)]
    N, D = (values[-1] * np.sqrt(10) for values in (SIZES, TOKENS))
    line = law.predict({"n_params": N, "n_tokens": D})
    beyond = line.lower[0] <= best(N, D) <= line.upper[0]
    return np.array(cells), (*hits, beyond, float(flagged or bool(forms.warnings)))


SETTINGS = [
    *(
        Setting(curve=curve, near=near, n_rates=n)
        for curve in CURVES
        for near in (False, True)
        for n in (3, 5, 7, 9)
    ),
    *(Setting(curve="skewed", near=False, n_rates=n, seeds=3) for n in (3, 5)),
    *(Setting(curve=curve, near=False, n_rates=7, off=1.0) for curve in INSIDE),
    *(Setting(curve=curve, near=False, n_rates=9, lost=1.5) for curve in ("skewed", "steep")),
]


def main(n_draws="20", seed="1", method="slice", curve="") -> None:
    heads = [
        "losses, grids",
        "rates",
        "a cell's rate",
        "silent",
        "off by",
        "flagged",
        "exponents",
        "at 10 ×",
        "flagged",
    ]
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}")
    for label in dict.fromkeys(setting.label for setting in SETTINGS):
        if not label.startswith(curve):
            continue
        own = [setting for setting in SETTINGS if setting.label == label]
        found = [held(setting, int(n_draws), int(seed), method=method) for setting in own]
        columns = [
            [str(setting.n_rates) for setting in own],
            [_percent(one.cell) for one in found],
            [_percent(one.silent) for one in found],
            [f"{one.off:+.2f}" for one in found],
            *(
                [_percent(getattr(one, name)) for one in found]
                for name in ("flagged", "exponents", "beyond", "law")
            ),
        ]
        print(f"| {label} | {' | '.join(map(', '.join, columns))} |", flush=True)


def _percent(share):
    return "none" if np.isnan(share) else f"{100 * share:.0f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
