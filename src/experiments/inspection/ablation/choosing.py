"""Which experts are taken away: those of a domain, those of a fact; and others of equal mass."""

from collections.abc import Sequence

import numpy as np

_NEAR = 8  # experts of about the same mass, among which one is drawn


def by_lift(mass: np.ndarray, text: int, n: int) -> np.ndarray:
    """The n experts of the highest lift in a text, the highest first. mass: (n_texts, N) of gates.

    Lift is an expert's share of a text's mass over its share of all texts', where each text counts
    as much as another. Experts of less than the mean mass are left out: the lift of what is hardly
    read is chance. Raises ValueError if fewer than n are left.
    """
    shares = mass / mass.sum(1, keepdims=True)
    overall = shares.mean(0)
    read = np.flatnonzero(overall >= overall.sum() / len(overall))
    if len(read) < n:
        raise ValueError(
            f"top={n} experts are to be chosen by lift, and {len(read)} have the mean mass or "
            "more; lower top"
        )
    lift = shares[text, read] / overall[read]
    return read[np.argsort(-lift, kind="stable")[:n]]


def by_part(experts: np.ndarray, parts: np.ndarray, n: int) -> np.ndarray:
    """The n experts whose (slots,) parts of a logit sum to the most, the largest first; fewer if
    fewer have a part above 0.
    """
    found, place = np.unique(experts, return_inverse=True)
    total = np.bincount(place, parts)
    order = np.argsort(-total, kind="stable")[:n]
    return found[order[total[order] > 0]]


def equal_mass(
    mass: np.ndarray, chosen: Sequence[int] | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """As many experts as are chosen, others, drawn so that each has about the mass of one of them.

    mass: (N,). For each chosen one, in a random order, the _NEAR experts of the nearest mass that
    are read, and neither chosen nor drawn, are looked up, and one is drawn.
    Raises ValueError where fewer are left than are chosen.
    """
    pool = np.setdiff1d(np.flatnonzero(mass > 0), chosen)
    if len(pool) < len(chosen):
        raise ValueError(
            f"{len(chosen)} experts are chosen, and {len(pool)} others are read, too few to draw "
            "as many; choose fewer"
        )
    pool = pool[np.argsort(mass[pool], kind="stable")]
    values, free = mass[pool], np.ones(len(pool), bool)
    drawn: list[int] = []
    for expert in rng.permutation(np.asarray(chosen)):
        at, reach = int(np.searchsorted(values, mass[expert])), _NEAR + len(drawn)
        near = np.arange(max(0, at - reach), min(len(pool), at + reach))
        near = near[free[near]]
        order = np.argsort(np.abs(values[near] - mass[expert]), kind="stable")
        place = int(rng.choice(near[order[:_NEAR]]))
        free[place] = False
        drawn.append(int(pool[place]))
    return np.array(sorted(drawn), np.int64)
