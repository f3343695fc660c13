"""Weights' own layer, as it is."""

from experiments.budget.costs import FFNConfig
from experiments.init.how import How


class Keep(How):
    """Nothing is seeded."""

    as_it_is = True

    def is_exact(self, base: FFNConfig) -> bool:
        return True


HOW = Keep()
