"""Run of a benchmark's overrides; apart from arguments.py, which needs torch alone."""

from collections.abc import Sequence

from experiments.config.composed import composed
from experiments.points.planning import check_effects, read_point
from experiments.points.point import Draft


def drafted(overrides: Sequence[str]) -> Draft:
    """Point that overrides say. Raises ValueError for what experiments.run refuses too."""
    draft = read_point(composed(overrides))
    check_effects(draft)
    return draft
