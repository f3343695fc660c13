"""Best learning rates of a table's cells, and how they go with size, length and batch."""

from analysis.rates.fit import Rates, fit_rates
from analysis.rates.law import RateLaw

__all__ = ["RateLaw", "Rates", "fit_rates"]
