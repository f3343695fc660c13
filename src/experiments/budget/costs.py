"""Parameters and FLOPs per token, counted term by term. Standard library only.

What is counted: every matrix product, the routing of sparse layers, the rows an
expert table gives and takes, and the language-model head. A multiply-add is 2 FLOPs.
What is not: norms, softmax, activations, rotary embeddings, the embedding look-up,
residual additions, the optimizer. At small widths that is not little: docs/flops.md says how much.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol

# forward 1, backward 2 (Kaplan 2020, arXiv:2001.08361, §2.1). Too much for sub-keys, whose backward
# pass is of the winners alone: docs/flops.md.
TRAINING_PASSES = 3
# frozen weights: a gradient passes through to what is trained below, and none is theirs; below all
# that is trained, none passes
THROUGH_PASSES, FORWARD_PASSES = 2, 1


@dataclass(frozen=True, kw_only=True)
class Term:
    """One addend of a model's cost.

    flops: forward FLOPs per token.
    n_active_params: the parameters a token reads; None means all of n_params.
    n_tables: how many tables of rows n_params are, of which a step touches those it reads; 0 for
        what is no table. d_row: elements of a row; None: d_model.
    shared: what the layers of a model have in common whose parameters these are, all of one set; a
        model has them once, and each layer its FLOPs and what it reads. None: the layer's own.
    seen_by_torch: whether torch's FlopCounterMode counts it (it sees matrix products only);
        the tests hold exactly those terms to the counter.
    passes: what a training step costs, in forward passes; 3 where the term is trained.
    n_trained_params: of n_params; None means all of them.
    frozen_flops: training FLOPs per token, of them, that are spent where nothing is trained.
    kept: elements a token that a backward pass needs, of the products' type; None: those that its
        matrix products give, flops / (2 d_model). kept_wide: of them, those that are float32
        whatever the products' type; an index counts as two. half: the half of a block, attention or
        layer, which trainer.recompute computes again; None: it does not. For block_costs: sums over
        blocks have none of these.
    """

    name: str
    n_params: int = 0
    n_active_params: int | None = None
    flops: float = 0.0
    seen_by_torch: bool = True
    n_tables: int = 0
    d_row: int | None = None
    shared: Hashable = None
    passes: float = TRAINING_PASSES
    n_trained_params: int | None = None
    frozen_flops: float = 0.0
    kept: float | None = None
    kept_wide: float = 0.0
    half: Literal["attention", "layer"] | None = None

    @property
    def n_active(self) -> int:
        """Parameters that a token reads."""
        return self.n_params if self.n_active_params is None else self.n_active_params

    @property
    def n_trained(self) -> int:
        """Parameters that training changes."""
        return self.n_params if self.n_trained_params is None else self.n_trained_params

    def frozen(self, passes: float) -> "Term":
        """This term where training changes none of its parameters."""
        spent = passes * self.flops
        return replace(self, passes=passes, n_trained_params=0, frozen_flops=spent)

    def renamed(self, prefix: str, times: int) -> "Term":
        """This term under a prefix, summed over `times` blocks."""
        active, trained = (
            None if n is None else times * n for n in (self.n_active_params, self.n_trained_params)
        )
        return Term(
            name=f"{prefix}.{self.name}",
            n_params=times * self.n_params,
            n_active_params=active,
            flops=times * self.flops,
            seen_by_torch=self.seen_by_torch,
            n_tables=times * self.n_tables,
            d_row=self.d_row,
            shared=self.shared,
            passes=self.passes,
            n_trained_params=trained,
            frozen_flops=times * self.frozen_flops,
            kept=None if self.kept is None else times * self.kept,
            kept_wide=times * self.kept_wide,
        )


@dataclass(frozen=True)
class Cost:
    """A sum of terms. Parameters are counts, FLOPs are per token."""

    terms: tuple[Term, ...]

    @property
    def n_params(self) -> int:
        """All parameters."""
        return sum(t.n_params for t in self.terms)

    @property
    def n_trained_params(self) -> int:
        """Those that training changes: all, unless the run starts from weights and freezes some."""
        return sum(t.n_trained for t in self.terms)

    @property
    def n_active_params(self) -> int:
        """Parameters that one token reads: of an expert table only the retrieved rows."""
        return sum(t.n_active for t in self.terms)

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
        """Training FLOPs per token, forward and backward: 3x forward, less where it is frozen."""
        spared = sum((TRAINING_PASSES - t.passes) * t.flops for t in self.terms)
        return TRAINING_PASSES * self.forward_flops - spared

    @property
    def frozen_flops(self) -> float:
        """Training FLOPs per token that are spent in parts that training does not change."""
        return sum(t.frozen_flops for t in self.terms)

    def shares(self) -> dict[str, float]:
        """Each term's share of the FLOPs, largest first; terms without FLOPs are left out."""
        total = self.forward_flops
        ranked = sorted(self.terms, key=lambda t: -t.flops)
        return {t.name: t.flops / total for t in ranked if t.flops}


VOCABULARY_TERMS = ("embedding", "head")


# The tokens that meet in a layer: of one process's forward pass, or of all processes' at once
Mixing = Literal["process", "all_processes"]


class FFNConfig(Protocol):
    """A feed-forward variant as the trunk uses it: it counts itself and builds itself.

    `n_experts` and the like are the variant's own; the trunk never reads them. It may also have
    `check_batch(n_tokens)`, which refuses a forward pass of so many tokens, and `mixes`: a Mixing
    where a sequence's outputs or loss in training depend on the sequences beside it. One that holds
    a layer beside another has `frozen` and `trained`, the configs of the two (beside.py). `is_mlp`
    says that the layer is one MLP (models/ffn/_base.py) of `d_ff(d_model)` hidden units, by
    `activation` and `glu`. `columns()` says what tells it from others of its kind in tables
    (config/fields.py).
    """

    def cost(self, d_model: int) -> Cost:
        """Layer's parameters and forward FLOPs per token at this width."""
        ...

    def build(self, d_model: int) -> Any:
        """A module of (batch, seq, d_model) to the same."""
        ...


def find_name(config: object) -> str:
    """Layer's name, as a user knows it."""
    return type(config).__name__.removesuffix("Config")


def block_costs(
    *,
    d_model: int,
    ffns: Sequence[FFNConfig],
    attention: Sequence[Term],
    trained_blocks: Sequence[int] | None = None,
    tables_alone: bool = False,
) -> tuple[Cost, ...]:
    """Each block, the lowest first: its attention and its layer. Norms are left to trunk_cost."""
    if trained_blocks is None:
        # from the last on: its pass backwards is the first that makes a gradient
        every = [(*attention, *ffn.cost(d_model).terms) for ffn in reversed(ffns)]
        once = _shared_once(term for block in every for term in block)
        return tuple(Cost(tuple(islice(once, len(block)))) for block in every)[::-1]
    return tuple(map(Cost, _frozen_blocks(d_model, attention, ffns, trained_blocks, tables_alone)))


def trunk_cost(
    *,
    d_model: int,
    vocab_size: int,
    tie_head: bool,
    ffns: Sequence[FFNConfig],
    attention: Sequence[Term],
    norm_params: int | None = None,
    n_norms: int = 2,
    trained_blocks: Sequence[int] | None = None,
    tables_alone: bool = False,
) -> Cost:
    """Whole model: one entry of `ffns` per block, in order. attention: the terms of a block's.

    Equal layers are summed into one term, so that the shares stay readable. norm_params: those of
    one norm; None for d_model, as RMS norm has. n_norms: of a block. trained_blocks: those whose
    layer alone is trained, nothing else of the model; None: all is trained. tables_alone: of these
    layers, the tables alone.
    """
    n_layers = len(ffns)
    vocabulary = [
        Term(name="embedding", n_params=vocab_size * d_model),
        Term(
            name="head",
            n_params=0 if tie_head else vocab_size * d_model,
            flops=2 * d_model * vocab_size,
        ),
    ]
    norm_params = d_model if norm_params is None else norm_params
    norms = Term(name="norms", n_params=(n_norms * n_layers + 1) * norm_params)
    if trained_blocks is not None:
        vocabulary = [term.frozen(THROUGH_PASSES) for term in vocabulary]
        norms = norms.frozen(THROUGH_PASSES)
        every = _frozen_blocks(d_model, attention, ffns, trained_blocks, tables_alone)
        blocks = [term for block in every for term in block]
    else:
        blocks = [t.renamed("attention", n_layers) for t in attention]
        for ffn, times in _tally(ffns):
            for term in ffn.cost(d_model).terms:
                each = 1 if term.shared is None else times
                blocks += [term.renamed("ffn", times // each)] * each
    return Cost(_merge(_shared_once([vocabulary[0], norms, *blocks, vocabulary[1]])))


def _frozen_blocks(
    d_model: int,
    attention: Sequence[Term],
    ffns: Sequence[FFNConfig],
    trained_blocks: Sequence[int],
    tables_alone: bool,
) -> Iterator[tuple[Term, ...]]:
    """Each block's terms where only the layers of trained_blocks are trained.

    A gradient comes down to the first of them, through attention's products of two activations at
    the full cost, and through frozen weights at half of a backward pass.
    """
    first = min(trained_blocks, default=-1)  # none: adapters in all blocks
    for i, ffn in enumerate(ffns):
        terms = []
        passes = THROUGH_PASSES if i > first else FORWARD_PASSES
        for term in attention:
            full = i > first and not term.n_params
            terms.append(term.frozen(TRAINING_PASSES if full else passes).renamed("attention", 1))
        frozen = getattr(ffn, "frozen", None) if i in trained_blocks else ffn
        trained = getattr(ffn, "trained", ffn) if i in trained_blocks else None
        if frozen is not None:
            own = frozen.cost(d_model).terms
            terms += [term.frozen(passes).renamed("ffn", 1) for term in own]
        if trained is not None:
            prefix = "ffn" if trained is ffn else "ffn.beside"
            for term in trained.cost(d_model).terms:
                is_frozen = tables_alone and not term.n_tables
                terms.append((term.frozen(passes) if is_frozen else term).renamed(prefix, 1))
        yield tuple(terms)


def _shared_once(terms: Iterable[Term]) -> Iterator[Term]:
    """These terms, of what they share the parameters in the first one alone. Reads add up to no
    more than there is.
    """
    unread: dict[Hashable, int] = {}
    for term in terms:
        if term.shared is None:
            yield term
            continue
        key, first = term.shared, term.shared not in unread
        active = min(term.n_active, unread.get(key, term.n_params))
        unread[key] = unread.get(key, term.n_params) - active
        yield (
            term if first else replace(term, n_params=0, n_active_params=active, n_trained_params=0)
        )


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
        flops = seen.flops + term.flops
        spent = seen.passes * seen.flops + term.passes * term.flops
        merged[term.name] = Term(
            name=term.name,
            n_params=seen.n_params + term.n_params,
            n_active_params=seen.n_active + term.n_active,
            flops=flops,
            seen_by_torch=seen.seen_by_torch,
            n_tables=seen.n_tables + term.n_tables,
            passes=seen.passes if seen.passes == term.passes or not flops else spent / flops,
            n_trained_params=seen.n_trained + term.n_trained,
            frozen_flops=seen.frozen_flops + term.frozen_flops,
        )
    return tuple(merged.values())
