"""Verdicts of the study's third edition: Holm's correction over the six contrasts of
results/study/edition_3/registration.md.

    python -m tests.study.third
"""

from functools import cache

from tests.study import fine, kinds, place, trend
from tests.study.records import holm

LEVEL = 0.05


@cache
def registered():
    """Findings of each contrast: value, lower, upper and p before correction."""
    of_place = {name: place.contrast(name) for name in place.REGISTERED}
    others = {"trend": trend.registered(), "neither": kinds.neither(), "fine": fine.fine()}
    return {**of_place, **others}


def corrected(**instead):
    """p after Holm's correction for all six; instead: p of contrasts in the place of their own."""
    own = {name: found.p for name, found in registered().items()}
    return holm({**own, **instead})


def verdict(name):
    """supported, or open; refuted, where a claim of one side is excluded."""
    found = registered()[name]
    if corrected()[name] >= LEVEL or not getattr(found, "tuned", True):
        return "open"
    return "refuted" if name == "neither" and found.value > 0 else "supported"


def shown(name):
    """Verdict with p, as the page has it."""
    p = corrected()[name]
    if p < 0.0095:
        return f"{verdict(name)} (p = {p:.1g})"
    near = abs(p - LEVEL) < 0.005  # which side of it is to be seen
    return f"{verdict(name)} (p = {p:.{3 if near else 2}f})"


if __name__ == "__main__":
    for name, c in registered().items():
        print(f"{name}: {c.value:.4f} ({c.lower:.4f} to {c.upper:.4f}), own p {c.p:.2g}, "
              f"p {corrected()[name]:.3g}: {verdict(name)}")  # fmt: skip
