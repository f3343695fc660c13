"""Learning and forgetting of a model that learns domains one after another."""

from analysis.forgetting.compare import Forgetting, compare_forgetting, has_learnt
from analysis.forgetting.equal import EqualLearning, compare_at_learning
from analysis.forgetting.ways import METRICS, metrics_of, unreadable, way_of

__all__ = [
    "METRICS",
    "EqualLearning",
    "Forgetting",
    "compare_at_learning",
    "compare_forgetting",
    "has_learnt",
    "metrics_of",
    "unreadable",
    "way_of",
]
