"""How models differ beside the noise of their seeds."""

from analysis.differences.by_column import DifferencesBy, compare_by
from analysis.differences.models import Differences, SeedNoise, compare_models, seed_noise

__all__ = [
    "Differences",
    "DifferencesBy",
    "SeedNoise",
    "compare_by",
    "compare_models",
    "seed_noise",
]
