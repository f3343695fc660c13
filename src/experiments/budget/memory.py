"""Peak memory of one training process, in bytes. Standard library only.

For refusing what can't fit and for choosing what does. Weights, gradients and moments are counted
in the types they are kept in; of a table that steps by rows, the rows that balanced routing would
touch. Activations are those that the terms of costs.py say a backward pass needs, and the residual
stream's; logits are three copies in float32. A backward pass gives activations up block by block
while it makes gradients: `apart` is what is never held at once with the rest.

The tests hold a step's peak, on fake tensors of a card, to this within 10 %. Not counted: what
libraries use for themselves, fragments, graphs that are compiled; a CPU's products make copies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from experiments.budget.costs import FORWARD_PASSES, Cost, Term

_SIZES = {"float32": 4, "bfloat16": 2}
_NORM = 8  # bytes a token and d_model of a norm: the residual stream, and what comes of it
_MATRICES = 2  # of a term that is no table, at least: its gradients do not come at once
_LOGITS = 12  # bytes a token and entry: log-probabilities, their gradient, and that of the logits
_OF_ALL = 12  # bytes a token of all and retrieved row: its index and its weight
_SORTED = 40  # bytes a token and retrieved row: keys, places and what a sort needs, while it lasts


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process, addend by addend; `apart` is taken off."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int
    program: int = int(0.4 * 2**30)
    apart: int = 0

    @property
    def total(self) -> int:
        """All of it, at its peak."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Addends by name; what is apart is below zero."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**held, "apart": -self.apart}


def plan_memory(
    cost: Cost,
    blocks: Sequence[Cost],
    *,
    d_model: int,
    vocab_size: int,
    micro_tokens: int,
    moments: int,
    n_micro: int = 1,
    n_ranks: int = 1,
    precision: str = "32-true",
    table_gradient: str = "dense",
    table_dtype: str = "float32",
    n_models: int = 1,
    table_ranks: int = 1,
    recompute: bool = False,
    n_norms: int = 1,
) -> Memory:
    """Memory of a process whose forward passes are of micro_tokens, n_micro of them a step.

    cost: the whole model's; blocks: of it, those of costs.block_costs. precision: Lightning's name.
    n_ranks: processes that average their gradients, in buckets of which the gradients are views.
    moments: bytes of what the optimizer keeps (points/memory.py). table_gradient: of config.Optim;
    table_dtype: of the tables' weights. n_models: how often the weights are held: twice, where the
    model is drawn to what it was at the start.
    table_ranks: processes that have the columns of each table between them, each of as many tokens:
    it holds that share of tables, their gradients and moments, and the indices and weights of their
    tokens, and its columns of them. recompute: of halves of blocks that can be computed again their
    inputs alone are kept. n_norms: on the way through a half.
    """
    product = 2 if precision == "bf16-mixed" else 4
    norm = (_NORM + product) * d_model  # and in the type of the product that takes it
    tables = [term for term in cost.terms if term.n_tables]
    n_table = sum(term.n_params for term in tables)
    n_other = cost.n_params - n_table
    size = _SIZES[table_dtype]
    adds_up = n_micro > 1 or n_ranks > 1

    def gradient(term: Term) -> float:
        if not term.n_tables:
            return 4 * term.n_trained
        n_tokens = n_ranks * micro_tokens * n_micro  # rows: those that any process retrieves
        return size * _table_gradient(term, table_gradient, n_tokens) / table_ranks

    def addend(term: Term) -> float:
        """Bytes beside the sum of its gradients while the last pass's is added to it."""
        one = gradient(term) / (term.n_tables or _MATRICES)
        if table_gradient != "rows" or not term.n_tables:
            return one
        # entries of both, one after the other, and in float32 where they are not, to be merged
        rows = _table_gradient(term, "rows", table_ranks * micro_tokens)
        new = size * rows / (table_ranks * term.n_tables)
        return new + (one + new) * (1 if size == 4 else 1 + 4 / size)

    def live(block: Cost) -> list[Term]:
        return [term for term in block.terms if term.passes > FORWARD_PASSES]

    def halves(block: Cost) -> list[list[Term]]:
        """Terms of each of its halves that is computed again; a half is as a whole, or not."""
        terms = live(block) if recompute else []
        attention = [term for term in terms if term.half == "attention"]
        layer = [term for term in terms if term.half != "attention"]
        found = attention, layer if all(term.half == "layer" for term in layer) else []
        return [half for half in found if half]

    def kept(block: Cost) -> float:
        """Bytes of a block's activations: of a half that is computed again, its input."""
        again = halves(block)
        names = {term.name for half in again for term in half}
        once = [term for term in live(block) if term.name not in names]
        return 4 * d_model * micro_tokens * len(again) + of_terms(once, 2 - len(again))

    def computed_again(block: Cost) -> float:
        """Bytes of the larger one of these halves, while its backward pass needs them."""
        return max((of_terms(half, 1) for half in halves(block)), default=0)

    def of_terms(terms: list[Term], n_halves: int) -> float:
        """Bytes of their activations, and of their weights in the products' type."""
        if not terms:
            return 0
        elements = [_kept(term, d_model) for term in terms]
        a_token = sum(product * n for n in elements) + 4 * sum(t.kept_wide for t in terms)
        cast = 0 if product == 4 else product * sum(t.n_params for t in terms if not t.n_tables)
        if table_ranks > 1:
            for_all = [t for t in terms if t.n_tables]
            pairs = sum(_row_pairs(t, d_model) for t in for_all)
            a_token += table_ranks * _OF_ALL * pairs
            a_token += 4 * max((t.d_row or d_model for t in for_all), default=0)
        return micro_tokens * (a_token + n_halves * n_norms * norm) + cast

    gradients = sum(map(gradient, cost.terms))
    logits = _LOGITS * micro_tokens * vocab_size
    activations = sum(map(kept, blocks)) + norm * micro_tokens  # the last one is before the head
    of_blocks = sum(gradient(term) for block in blocks for term in block.terms)
    held = gradients if adds_up else gradients - of_blocks
    there, peak = activations, activations + logits + (held if adds_up else 0)
    most = 0.0
    for block in reversed(blocks):
        if not adds_up:
            held += sum(map(gradient, block.terms))
        tables_of = [t for t in block.terms if t.n_tables]
        pairs = table_ranks * sum(_row_pairs(t, d_model) for t in tables_of)
        beside = max(map(addend, block.terms)) if adds_up else 0
        most = max(most, beside)
        beside += computed_again(block) + _SORTED * pairs * micro_tokens
        peak = max(peak, there + held + beside)
        there -= kept(block)
    gradients += most
    return Memory(
        weights=n_models * (4 * n_other + size * n_table // table_ranks),
        gradients=round(gradients),
        moments=moments,
        activations=round(activations),
        logits=logits,
        apart=round(gradients + activations + logits - peak),
    )


def _row_pairs(term: Term, d_model: int) -> float:
    """Rows that a token retrieves of each of a term's tables."""
    return term.n_active / (term.d_row or d_model) / term.n_tables


def _kept(term: Term, d_model: int) -> float:
    return term.flops / (2 * d_model) if term.kept is None else term.kept


def _table_gradient(term: Term, how: str, n_tokens: int) -> float:
    """Elements of the gradients of a term's tables."""
    if how == "fused":
        return 0
    if how == "dense" or not term.n_params:  # it is another layer's
        return term.n_trained
    return -term.n_trained * math.expm1(-n_tokens * term.n_active / term.n_params)
