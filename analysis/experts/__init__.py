"""Laws of the loss against the number of experts, fitted and compared."""

from analysis.experts.compare import LawComparison, compare_laws
from analysis.experts.fit import fit_expert_law, size_slopes
from analysis.experts.law import ExpertLawFit

__all__ = [
    "ExpertLawFit",
    "LawComparison",
    "compare_laws",
    "fit_expert_law",
    "size_slopes",
]
