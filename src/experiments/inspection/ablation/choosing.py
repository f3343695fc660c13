"""Which experts are taken away: those of a domain, those of a fact; and others of equal mass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NEAR = 8  # experts of about the same mass, among which one is drawn


@dataclass(frozen=True, kw_only=True)
class Choice:
    """experts: by index, or None: the `top` of the highest lift in the text `domain`, or, of each
    fact, those of the largest direct parts in the logits of its target (contributions.py).
    draws: of as many random ones.
    """

    experts: tuple[int, ...] | None = None
    domain: str | None = None
    top: int = 16
    draws: int = 5
    seed: int = 0


def by_lift(mass: np.ndarray, text: int, n: int) -> np.ndarray:
    """Chooses n experts of the highest lift in a text, best first. mass: (n_texts, N) of gates.

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
    """Chooses n experts whose (slots,) parts of a logit sum to the most, largest first; fewer if
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
    free = np.setdiff1d(np.flatnonzero(mass > 0), chosen)
    if len(free) < len(chosen):
        raise ValueError(
            f"{len(chosen)} experts are chosen, and {len(free)} others are read, too few to draw "
            "as many; choose fewer"
        )
    free = free[np.argsort(mass[free], kind="stable")]
    values, drawn = mass[free], []
    for expert in rng.permutation(np.asarray(chosen)):
        at = int(np.searchsorted(values, mass[expert]))
        near = np.arange(max(0, at - _NEAR), min(len(free), at + _NEAR))
        order = near[np.argsort(np.abs(values[near] - mass[expert]), kind="stable")]
        place = int(rng.choice(order[:_NEAR]))
        drawn.append(int(free[place]))
        free, values = np.delete(free, place), np.delete(values, place)
    return np.array(sorted(drawn), np.int64)
