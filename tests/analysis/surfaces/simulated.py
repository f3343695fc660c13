"""Table of docs/surfaces.md: what surfaces say of ten times the compute, averaged over the forms
that the runs don't exclude, where one of the forms is true and where none is. "missed" and "bent"
are the shares of tables with such a warning, "silent" those that miss the truth without one.

    python -m tests.analysis.surfaces.simulated 100

Five budgets of seven sizes (truths.runs), a noise of 0.005 nats.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.surfaces.compare import compare_surfaces
from tests.analysis.isoflop import truths
from tests.analysis.tables import HOFFMANN

FIRST = 20_000  # seed; the method was found on others
SD = 0.005
UNIQUE = 1.5e9
SURFACES = {  # the surface, and the form that it is, if one of them
    "Hoffmann": (truths.hoffmann, "chinchilla"),
    "Kaplan": (truths.kaplan, "kaplan"),
    "Muennighoff": (truths.muennighoff, "muennighoff"),
    "broken in D": (truths.broken, "broken"),
    "size and tokens interact": (truths.interacting, None),
    "rates worse at large N": (truths.badly_tuned, None),
    "N without embeddings": (truths.non_embedding, None),
}
COEFFICIENTS = {
    "chinchilla": HOFFMANN,
    "kaplan": {"A": 8.8e13, "B": 5.4e13, "alpha": 0.076, "beta": 0.095},
    "muennighoff": {
        "E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974),
        "alpha": 0.3526596, "beta": 0.3526596, "R_D": 15.387756, "R_N": 5.309743,
    },
    "broken": {
        "E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28, "beta_beyond": 0.16,
        "D_turn": 2e9,
    },
}  # fmt: skip


def of_tables(law: Callable, form: str | None, n: int, first: int = FIRST) -> pd.DataFrame:
    """A row a table: whether intervals at ten times the compute hold the truth, of the average and
    of the likeliest form, with the average's width in ln; whether there is a warning; and of the
    true form whether it is excluded, and whether each coefficient's interval holds it.
    """
    table = truths.runs(law)
    N, D = (table[name].to_numpy(dtype=float) for name in ("n_params", "n_tokens"))
    unique = UNIQUE if law is truths.muennighoff else np.inf
    budget = 10 * truths.BUDGETS[-1]
    best = truths.optimum(law, budget)
    exact = law(best, budget / 6 / best)
    rows = []
    for seed in range(first, first + n):
        L = truths.noisy(table, SD, seed)["loss"].to_numpy(dtype=float)
        found = compare_surfaces(N, D, L, n_unique=np.where(unique < D, unique, np.inf), seed=seed)
        at = best, budget / 6 / best
        likeliest = next(fit for fit in found.fits if fit.form_name == next(iter(found.possible)))
        row: dict[str, object] = {
            "forms": len(found.possible),
            "missed": bool(found.missed),
            "bent": bool(found.bent),
        }
        for name, of in (("average", found), ("likeliest", likeliest)):
            band = of.predict(*at, n_unique=unique)
            row[f"loss, {name}"] = bool(band.lower <= exact <= band.upper)
            row[f"width of loss, {name}"] = float(np.log(band.upper / band.lower))
        size = found.optimum(budget, n_unique=unique)["n_params"]
        row["N*"] = size.lower <= best <= size.upper
        row["width of N*"] = np.log(size.upper / size.lower)
        if form is not None:
            row["excluded"] = form not in found.possible
            fit = next(fit for fit in found.fits if fit.form_name == form)
            for name, value in COEFFICIENTS[form].items():
                low, high = fit.bounds(name)
                row[f"of {name}"] = low <= value <= high
        rows.append(row)
    return pd.DataFrame(rows)


def coverage(law: Callable, form: str | None, n: int, first: int = FIRST) -> dict[str, float]:
    """Shares over n tables, and median widths; the coefficients' is of the worst."""
    frame = of_tables(law, form, n, first)
    own = frame.filter(regex="^of ")
    found = frame.drop(columns=own.columns).astype(float)
    wide = [name for name in found if name.startswith("width")]
    row = {**found.drop(columns=wide).mean(), **found[wide].median()}
    if own.shape[1]:
        shares = own.mean().sort_values()
        row |= {
            "coefficients": shares.mean(),
            "worst": f"{shares.index[0][3:]} {shares.iloc[0]:.2f}",
        }
    quiet = ~(frame["missed"] | frame["bent"]).astype(bool)
    silent = {
        f"silent, {name}": (quiet & ~frame[held].astype(bool)).mean()
        for name, held in (("loss", "loss, average"), ("N*", "N*"))
    }
    return {**row, **silent}


def main(n: int, first: int = FIRST) -> None:
    rows = {name: coverage(*of, n, first) for name, of in tqdm(SURFACES.items(), desc="surfaces")}
    pd.set_option("display.width", 250)
    print(pd.DataFrame(rows).T.to_string(float_format=lambda share: f"{share:.3f}"))


if __name__ == "__main__":
    main(*(int(v) for v in sys.argv[1:]))
