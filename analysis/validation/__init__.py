"""Checks of the fits: other approaches, held-out budgets, residuals."""
