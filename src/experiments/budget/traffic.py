"""Bytes that a training step moves to and from a card's memory, at least. Standard library only.

Counted are the rows that tokens read from expert tables, once in each pass; the optimizer's step;
and the gradients of micro-batches, which are added up. Not counted are activations, which products
read and write while they compute, the steps of rows alone, and what cards send each other.
"""

from experiments.budget.costs import Cost, Term

_STEP = 3  # an optimizer reads and writes a weight, and reads a gradient of its size
_MOMENT = 2  # and reads and writes what it keeps
_SUM = 3  # a gradient is read, and the sum so far read and written


def step_bytes(
    cost: Cost,
    *,
    n_tokens: int,
    n_micro: int,
    moments: int,
    table_gradient: str,
    table_dtype: str,
    table_ranks: int = 1,
) -> float:
    """Bytes of one process's step of n_tokens, in n_micro forward passes. moments: bytes of what
    the optimizer keeps of parameters that step as a whole. table_ranks: processes
    that have the columns of each table between them; each reads its columns for all their tokens.
    """
    size = 2 if table_dtype == "bfloat16" else 4

    def gradient(term: Term) -> int:
        """Bytes of a gradient that is as large as its weights."""
        if not term.n_tables:
            return 4 * term.n_trained
        return size * term.n_trained // table_ranks if table_gradient == "dense" else 0

    rows = sum(term.passes * term.n_active for term in cost.terms if term.n_tables)
    sums = _SUM * (n_micro - 1)
    moved = (_STEP + sums) * sum(map(gradient, cost.terms)) + _MOMENT * moments
    return n_tokens * size * rows + moved
