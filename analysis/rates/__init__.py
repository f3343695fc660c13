"""Best learning rates of a table's cells, and how they go with size, length and batch."""

from analysis.rates.fit import Rates, fit_rates
from analysis.rates.law import RateLaw
from analysis.rates.moves import RateMoves, compare_rates

__all__ = ["RateLaw", "RateMoves", "Rates", "compare_rates", "fit_rates"]
