"""Tables of docs/experts.md: intervals of laws of experts, and which law is said to hold.

    python -m tests.analysis.experts.simulated joint 40 0.01
    python -m tests.analysis.experts.simulated forms 20 0.01 0.03

Noise is relative, and of one standard deviation in each table of runs.
"""

import sys
from collections.abc import Iterator

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.experts.compare import compare_laws
from analysis.experts.fit import fit_expert_law
from analysis.laws.law import Variables
from tests.analysis.expert_laws import EXPERTS, JOINT_GRIDS, LAWS, SIZES, TRUTHS, joint_runs
from tests.analysis.tables import expert_runs

FIRST = 10_000  # seed; the method was found on others
PLACES = {  # inside the runs, and beyond the largest
    "joint": ({"N": 5e8, "E": 8, "D": 2e10}, {"N": 5e9, "E": 16, "D": 3e11}),
    "sparsity": ({"N": 5e9, "D": 2e10, "S": 0.8}, {"N": 1e11, "D": 3e11, "S": 0.9}),
    "granularity_experts": (
        {"N": 5e8, "E": 16, "D": 2e10, "G": 4},
        {"N": 2e10, "E": 32, "D": 3e11, "G": 8},
    ),
}
# The middle of the runs, and four times their most experts at the largest size
ASKED = (np.array([1.5e8, SIZES[-1]]), np.array([32.0, 4 * EXPERTS[-1]]))
TURN, RISE = 64.0, 0.02  # experts, and nats that each doubling costs beyond them


def rising(N, E):
    """A loss that falls up to 64 experts, and rises beyond them."""
    more = RISE * np.log2(np.maximum(E / TURN, 1))
    return LAWS["power_floor"](N, np.minimum(E, TURN), **TRUTHS["power_floor"]) + more


def losses_of(form):
    return rising if form == "rising" else lambda N, E: LAWS[form](N, E, **TRUTHS[form])


def of_joint(form: str, sd: float, n: int) -> dict[str, float]:
    """Share of 95 % intervals that hold the truth: of parameters, and the loss at PLACES; that
    of fits with a warning; and that of misses of the worst parameter without one.
    """
    law, truth, _ = JOINT_GRIDS[form]
    values = [{k: np.float64(v) for k, v in place.items()} for place in PLACES[form]]
    exact = np.array([law(**place, **truth) for place in values])
    columns = {k: np.array([place[k] for place in values]) for k in values[0]}
    held, flagged = [], []
    for seed in range(FIRST, FIRST + n):
        fit = fit_expert_law(joint_runs(form, sd, seed), form, n_draws=0)
        bounds = fit.conf_int()
        at = Variables.of(**columns)
        size, others = at.N, {"E": "n_experts", "D": "n_tokens", "G": "granularity"}
        more = {name: getattr(at, letter) for letter, name in others.items()}
        predicted = fit.predict(size, **more, sparsity=at.S)
        row = {
            name: bool(bounds.loc[name, "lower"] <= truth[name] <= bounds.loc[name, "upper"])
            for name in fit.names
        }
        inside = (predicted.lower <= exact) & (exact <= predicted.upper)
        held.append({**row, "loss inside": inside[0], "loss beyond": inside[1]})
        flagged.append(bool(fit.warnings))
    frame, warned = pd.DataFrame(held), np.array(flagged)
    silent = (~frame & ~warned[:, None]).mean()
    return {**frame.mean(), "flagged": warned.mean(), "missed in silence": silent.max()}


def of_forms(form: str, sd: float, n: int) -> dict[str, float]:
    """Which forms are possible where this one is true, and the share of 95 % intervals of the loss
    at ASKED that hold it: of the average, and of the form of the lowest AICc.
    """
    rows = []
    for seed in range(FIRST, FIRST + n):
        table = expert_runs(losses_of(form), SIZES, EXPERTS, noise=sd, seed=seed)
        found = compare_laws(table, hold_out="budget", n_draws=0)  # of which they have none
        exact = losses_of(form)(*ASKED)
        row = {
            "lowest AICc is another's": found.laws[0].form_name != form,
            "one form named": len(found.possible) == 1,
            "another alone": list(found.possible) != [form] and len(found.possible) == 1,
            "flagged": any(
                "in a pattern" in text or "losses turn at" in text
                for text in found.fits[0].warnings
            ),
        }
        for name, asked in (("average", found.predict), ("lowest", found.fits[0].predict)):
            band = asked(*ASKED)
            inside, beyond = (band.lower <= exact) & (exact <= band.upper)
            row |= {f"{name}, inside": inside, f"{name}, beyond": beyond}
            row[f"{name}, width"] = float(np.log(band.upper / band.lower)[1])
        rows.append(row)
    frame = pd.DataFrame(rows)
    widths = [name for name in frame if name.endswith("width")]
    return {**frame.drop(columns=widths).mean(), **frame[widths].median()}


def tables(which: str, n: int, sds: list[float]) -> Iterator[tuple[str, pd.DataFrame]]:
    for sd in sds:
        if which == "joint":
            for form in JOINT_GRIDS:
                yield f"{form}, sd {sd}", pd.DataFrame({"share": of_joint(form, sd, n)}).T
        else:
            truths = [*TRUTHS, "rising"]
            rows = {form: of_forms(form, sd, n) for form in tqdm(truths, desc=f"sd {sd}")}
            yield f"sd {sd}", pd.DataFrame(rows).T


def main(which: str, n: int, *sds: str) -> None:
    for name, frame in tables(which, n, [float(sd) for sd in sds]):
        print(f"{name}\n{frame.round(3).to_string()}\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
