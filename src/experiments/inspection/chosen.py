"""Experts of a layer that a page shows: the most used, those of one text, random ones."""

import numpy as np
import pandas as pd

from experiments.inspection.lifts import RATE, Lifts

N_EACH = 12
GROUPS = ("used", "specific", "random")


def chosen_experts(mass: np.ndarray, lifted: Lifts) -> pd.DataFrame:
    """A line an expert and a group, best first: group, rank, expert. An expert may be in several.

    mass: (N,). used: of the largest mass. specific: whose significant lift in some text has the
    highest lower end. random: drawn among all with any mass, the same each time.
    """
    read = np.flatnonzero(mass)
    used = np.argsort(-mass, kind="stable")[: min(N_EACH, len(read))]
    drawn = np.random.default_rng(0).permutation(read)[:N_EACH]
    above = (lifted.q <= RATE) & (lifted.lift > 1)
    low = np.where(above, lifted.low, -np.inf).max(0)
    specific = np.argsort(-low, kind="stable")[: min(N_EACH, int(np.isfinite(low).sum()))]
    groups = dict(zip(GROUPS, (used, specific, drawn), strict=True))
    return pd.DataFrame(
        {
            "group": [name for name, own in groups.items() for _ in own],
            "rank": [i + 1 for own in groups.values() for i in range(len(own))],
            "expert": np.concatenate([*groups.values()]).astype(np.int64),
        }
    )
