"""Bytes that a training step moves to and from a card's memory, at least. Standard library only.

Counted are the rows that tokens read from expert tables, once in each pass, and the optimizer's
step. Not counted are activations, which products read and write while they compute.
"""

from experiments.budget.costs import Cost
from experiments.budget.memory import Memory

# AdamW reads and writes a weight and two moments, and reads a gradient, all of one size
_OF_A_GRADIENT = 7


def step_bytes(cost: Cost, memory: Memory, *, n_tokens: int, table_dtype: str) -> float:
    """Bytes of one process's step of n_tokens. A table that steps in the backward pass (fused) has
    no gradients, and its step is not counted.
    """
    size = 2 if table_dtype == "bfloat16" else 4
    tables = (term for term in cost.terms if term.n_tables)
    rows = sum(
        term.passes * (term.n_params if term.n_active_params is None else term.n_active_params)
        for term in tables
    )
    return n_tokens * size * rows + _OF_A_GRADIENT * memory.gradients
