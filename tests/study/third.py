"""Verdicts of the study's third edition: Holm's correction over the six contrasts of
results/study/edition_3/registration.md, of which `fine` is not run.

    python -m tests.study.third
"""

from functools import cache

from tests.study import kinds, place, trend
from tests.study.records import holm

NOT_RUN = ("fine",)
LEVEL = 0.05


@cache
def registered():
    """Findings of each contrast that is run: value, lower, upper and p before correction."""
    of_place = {name: place.contrast(name) for name in place.REGISTERED}
    return {**of_place, "trend": trend.registered(), "neither": kinds.neither()}


def corrected(**instead):
    """p after Holm's correction for all six, as if those that are not run had the largest: no
    smaller than what all six would give. instead: p of contrasts in the place of their own.
    """
    own = {name: found.p for name, found in registered().items()}
    return holm({**own, **dict.fromkeys(NOT_RUN, 1.0), **instead})


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
    print("not run:", *NOT_RUN)
