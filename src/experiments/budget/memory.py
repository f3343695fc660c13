"""Peak memory of one training process, in bytes. Standard library only.

A rule of thumb for refusing what can't fit and for choosing what does. Exact are weights, gradients
and moments, in the types they are kept in; of a table that steps by rows, the rows that balanced
routing would touch. Rough is the rest, counted in float32: 40 vectors of d_model a token and block,
four copies of the logits, 64 bytes for each pair of a token and a retrieved row, 0.4 GiB for the
program. Against the resident memory of the demo's runs it is right within a factor of 1.5.
"""

import math
from dataclasses import dataclass, fields

from experiments.budget.costs import Cost, Term

_SIZES = {"float32": 4, "bfloat16": 2}
_BYTES_PER_PAIR = 64  # indices, scores, gates, hidden units, their gradients, and the sort


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process, addend by addend."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int
    program: int = int(0.4 * 2**30)

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """The addends by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def plan_memory(
    cost: Cost,
    *,
    d_model: int,
    n_layers: int,
    vocab_size: int,
    micro_tokens: int,
    n_micro: int = 1,
    table_gradient: str = "dense",
    table_state: str = "float32",
    table_dtype: str = "float32",
    n_models: int = 1,
    n_one_moment: int = 0,
) -> Memory:
    """The memory of a process whose forward passes are of micro_tokens, n_micro of them a step.

    n_layers: the blocks whose activations a backward pass needs, all unless some are frozen.
    table_gradient, table_state: of config.Optim; table_dtype: of the tables' weights. n_models: how
    often the weights are held: twice, where the model is drawn to what it was at the start.
    n_one_moment: parameters that step by Muon, which has one moment where AdamW has two.
    """
    tables = [term for term in cost.terms if term.n_tables]
    trained = [term for term in tables if term.n_trained]
    n_table = sum(term.n_params for term in tables)
    n_trained_table = sum(term.n_trained for term in tables)
    n_other, n_trained = cost.n_params - n_table, cost.n_trained_params - n_trained_table
    size = _SIZES[table_dtype]
    state = size if table_gradient == "dense" else _SIZES[table_state]
    of_tables = sum(_gradient(term, table_gradient, micro_tokens, n_micro) for term in trained)
    pairs = sum(_reads_per_token(term) / d_model / term.n_tables for term in tables)
    activations = 4 * 40 * d_model * n_layers + _BYTES_PER_PAIR * pairs
    return Memory(
        weights=n_models * (4 * n_other + size * n_table),
        gradients=4 * n_trained + round(size * of_tables),
        moments=8 * n_trained - 4 * n_one_moment + 2 * state * n_trained_table,
        activations=round(micro_tokens * activations),
        logits=4 * 4 * micro_tokens * vocab_size,
    )


def _reads_per_token(term: Term) -> int:
    return term.n_params if term.n_active_params is None else term.n_active_params


def _gradient(term: Term, table_gradient: str, micro_tokens: int, n_micro: int) -> float:
    """Elements of a term's gradients at most; the last forward pass's are beside the sum so far."""
    one_table = term.n_params / term.n_tables
    if table_gradient == "fused":
        return 0
    if table_gradient == "dense":
        return term.n_params + (one_table if n_micro > 1 else 0)

    def touched(n_tokens: int) -> float:
        return -math.expm1(-n_tokens * _reads_per_token(term) / term.n_params)

    if n_micro == 1:
        return term.n_params * touched(micro_tokens)
    # the sum, and of one table at a time the addend and the new sum
    whole = touched(n_micro * micro_tokens)
    return term.n_params * whole + one_table * (touched(micro_tokens) + whole)
