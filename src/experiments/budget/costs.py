"""Parameters and FLOPs per token, counted term by term. Standard library only.

What is counted: every matrix product, the routing of sparse layers, the rows an
expert table gives and takes, and the language-model head. A multiply-add is 2 FLOPs.
What is not: norms, softmax, activations, rotary embeddings, the embedding look-up,
residual additions, the optimizer. At small widths that is not little: docs/flops.md says how much.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# forward 1, backward 2 (Kaplan 2020, arXiv:2001.08361, §2.1). Too much for sub-keys, whose backward
# pass is of the winners alone: docs/flops.md.
TRAINING_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Term:
    """One addend of a model's cost.

    flops: forward FLOPs per token.
    n_active_params: the parameters a token reads; None means all of n_params.
    n_tables: how many tables of rows n_params are, of which a step touches those it reads; 0 for
        what is no table.
    seen_by_torch: whether torch's FlopCounterMode counts it (it sees matrix products only);
        the tests hold exactly those terms to the counter.
    """

    name: str
    n_params: int = 0
    n_active_params: int | None = None
    flops: float = 0.0
    seen_by_torch: bool = True
    n_tables: int = 0

    def renamed(self, prefix: str, times: int) -> "Term":
        """This term under a prefix, summed over `times` blocks."""
        active = None if self.n_active_params is None else times * self.n_active_params
        return Term(
            name=f"{prefix}.{self.name}",
            n_params=times * self.n_params,
            n_active_params=active,
            flops=times * self.flops,
            seen_by_torch=self.seen_by_torch,
            n_tables=times * self.n_tables,
        )


@dataclass(frozen=True)
class Cost:
    """A sum of terms. Parameters are counts, FLOPs are per token."""

    terms: tuple[Term, ...]

    @property
    def n_params(self) -> int:
        """All trainable parameters."""
        return sum(t.n_params for t in self.terms)

    @property
    def n_active_params(self) -> int:
        """Parameters that one token reads: of an expert table only the retrieved rows."""
        return sum(
            t.n_params if t.n_active_params is None else t.n_active_params for t in self.terms
        )

    @property
    def n_non_embedding_params(self) -> int:
        """All parameters less the vocabulary matrices (token embedding and untied head)."""
        return sum(t.n_params for t in self.terms if t.name not in VOCABULARY_TERMS)

    @property
    def forward_flops(self) -> float:
        """Forward FLOPs per token."""
        return sum(t.flops for t in self.terms)

    @property
    def training_flops(self) -> float:
        """Training FLOPs per token, forward and backward (3x forward)."""
        return TRAINING_PASSES * self.forward_flops

    def shares(self) -> dict[str, float]:
        """Each term's share of the FLOPs, largest first; terms without FLOPs are left out."""
        total = self.forward_flops
        ranked = sorted(self.terms, key=lambda t: -t.flops)
        return {t.name: t.flops / total for t in ranked if t.flops}


VOCABULARY_TERMS = ("embedding", "head")


# The tokens that meet in a layer: of one process's forward pass, or of all processes' at once
Mixing = Literal["process", "all_processes"]


class FFNConfig(Protocol):
    """What the trunk asks of a feed-forward variant: count yourself, build yourself.

    `n_experts` and the like are the variant's own; the trunk never reads them. It may also have
    `check_batch(n_tokens)`, which refuses a forward pass of so many tokens, and `mixes`: a Mixing
    where a sequence's outputs or loss in training depend on the sequences beside it.
    """

    def cost(self, d_model: int) -> Cost:
        """The layer's parameters and forward FLOPs per token at this width."""
        ...

    def build(self, d_model: int) -> Any:
        """A module of (batch, seq, d_model) to the same."""
        ...


def attention_terms(d_model: int, seq_len: int) -> tuple[Term, ...]:
    """Causal self-attention without biases; a position attends to (seq_len + 1) / 2 on average.

    torch's counter does not know the mask and counts seq_len positions instead.
    """
    context = (seq_len + 1) / 2
    return (
        Term(name="projections", n_params=4 * d_model**2, flops=8 * d_model**2),
        Term(name="context", flops=4 * d_model * context, seen_by_torch=False),
    )


def trunk_cost(
    *,
    d_model: int,
    seq_len: int,
    vocab_size: int,
    tie_head: bool,
    ffns: Sequence[FFNConfig],
) -> Cost:
    """The whole model: one entry of `ffns` per block, in order.

    Equal layers are summed into one term, so that the shares stay readable.
    """
    n_layers = len(ffns)
    terms = [Term(name="embedding", n_params=vocab_size * d_model)]
    terms += [t.renamed("attention", n_layers) for t in attention_terms(d_model, seq_len)]
    terms += [Term(name="norms", n_params=(2 * n_layers + 1) * d_model)]
    for ffn, times in _tally(ffns):
        terms += [t.renamed("ffn", times) for t in ffn.cost(d_model).terms]
    terms += [
        Term(
            name="head",
            n_params=0 if tie_head else vocab_size * d_model,
            flops=2 * d_model * vocab_size,
        )
    ]
    return Cost(_merge(terms))


def _tally(ffns: Iterable[FFNConfig]) -> list[tuple[FFNConfig, int]]:
    distinct: list[FFNConfig] = []
    counts: list[int] = []
    for ffn in ffns:
        if ffn in distinct:
            counts[distinct.index(ffn)] += 1
        else:
            distinct.append(ffn)
            counts.append(1)
    return list(zip(distinct, counts, strict=True))


def _merge(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Adds up terms of one name, e.g. two dense layers of different width."""
    merged: dict[str, Term] = {}
    for term in terms:
        seen = merged.get(term.name)
        if seen is None:
            merged[term.name] = term
            continue
        active = [
            t.n_params if t.n_active_params is None else t.n_active_params for t in (seen, term)
        ]
        merged[term.name] = Term(
            name=term.name,
            n_params=seen.n_params + term.n_params,
            n_active_params=sum(active),
            flops=seen.flops + term.flops,
            seen_by_torch=seen.seen_by_torch,
            n_tables=seen.n_tables + term.n_tables,
        )
    return tuple(merged.values())
