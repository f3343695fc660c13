"""Trunk: a decoder that is handed its feed-forward layers and knows none by name.

No biases, a tied or untied head, the same for every feed-forward variant. Its attention, its norms,
its residual path and what attention knows of positions are handed to it too. The paper gives its
trunk's sizes alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, FFNConfig, block_costs, trunk_cost
from experiments.kernels.interface import Columns
from experiments.kernels.ops import Execution
from experiments.models.attention.attention import AttentionConfig
from experiments.models.attention.gqa import GQAConfig
from experiments.models.cache import Cache
from experiments.models.documents import document_mask, seen_before
from experiments.models.ffn._base import FFN, share
from experiments.models.ffn._rows import whole_tables
from experiments.models.lora import add_lora, lora_term
from experiments.models.norms.norm import NormConfig
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.parametrization import Base, Multipliers, Scale, scales
from experiments.models.positions.positions import Positions, Seen, seen_at
from experiments.models.positions.rope import RoPE
from experiments.models.residuals.pre_norm import PreNorm
from experiments.models.residuals.residual import Block, Residual
from experiments.models.roles import ROWS, Role, check_declared, declared_roles
from experiments.models.tokens import Tokens, check_vocabulary

_GQA, _ROPE, _RMS, _PRE_NORM = GQAConfig(), RoPE(), RMSNormConfig(), PreNorm()


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """d_model is a multiple of d_head; `ffns` has one entry per block.

    document_end: the id that ends a document; if given, attention does not reach past the end of
    another document. Costs are those of full causal attention either way.
    trained_blocks: only these blocks' layers are trained (freezing.py); None: all is.
    tables_alone: of these layers, their tables of rows alone are.
    lora_rank: instead, of low-rank adapters beside all linear maps of the blocks (lora.py).
    base: the model from whose size the learning rate is carried to this one (parametrization.py);
    None: the standard parametrization.
    """

    d_model: int
    d_head: int
    vocab_size: int
    seq_len: int
    tie_head: bool
    ffns: tuple[FFNConfig, ...]
    document_end: int | None = None
    positions: Positions = _ROPE
    norm: NormConfig = _RMS
    attention: AttentionConfig = _GQA
    residual: Residual = _PRE_NORM
    trained_blocks: tuple[int, ...] | None = None
    tables_alone: bool = False
    lora_rank: int | None = None
    base: Base | None = None

    def __post_init__(self) -> None:
        self.positions.check(self.d_head)
        if self.d_model % self.d_head:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of d_head={self.d_head}; "
                "change ladder.d_per_layer (d_model for each of size blocks) or ladder.d_head"
            )
        self.attention.check(self.d_model, self.d_head)

    @property
    def n_heads(self) -> int:
        """Attention heads, of queries."""
        return self.d_model // self.d_head

    @property
    def multipliers(self) -> Multipliers:
        """Factors of a forward pass; all 1 where there is no base."""
        if self.base is None:
            return Multipliers()
        return Multipliers.of(
            self.base, d_model=self.d_model, d_head=self.d_head, n_layers=len(self.ffns)
        )

    def base_shapes(self) -> dict[str, torch.Size]:
        """Shapes of the base model's parameters, by name. It is not made.

        Raises ValueError for a matrix without a role.
        """
        assert self.base is not None
        base = replace(self, d_model=self.base.d_model, d_head=self.base.d_head)
        return base.shapes()

    def shapes(self) -> dict[str, torch.Size]:
        """Those of the parameters, by name, of whole tables. Raises as base_shapes does."""
        with torch.device("meta"), whole_tables():
            made = replace(self, base=None).build()
        check_declared(made, "optim.parametrization=mup or completep")
        return {name: parameter.shape for name, parameter in made.named_parameters()}

    def cost(self) -> Cost:
        """Parameters and FLOPs per token of the whole model."""
        cost = trunk_cost(
            d_model=self.d_model,
            vocab_size=self.vocab_size,
            tie_head=self.tie_head,
            ffns=self.ffns,
            attention=self.attention.terms(self.d_model, self.d_head, self.seq_len),
            norm_params=self.norm.n_params(self.d_model),
            n_norms=len(self.residual.norms),
            trained_blocks=self.trained_blocks,
            tables_alone=self.tables_alone,
        )
        if self.lora_rank is None:
            return cost
        with torch.device("meta"):
            blocks = replace(self, lora_rank=None).build().blocks
        return Cost((*cost.terms, lora_term(blocks, self.lora_rank)))

    def block_costs(self) -> tuple[Cost, ...]:
        """Each block's, the lowest first, without low-rank adapters."""
        return block_costs(
            d_model=self.d_model,
            ffns=self.ffns,
            attention=self.attention.terms(self.d_model, self.d_head, self.seq_len),
            trained_blocks=self.trained_blocks,
            tables_alone=self.tables_alone,
        )

    def build(self) -> "Transformer":
        """Model, initialised from torch's global generator."""
        model = Transformer(self)
        if self.lora_rank is not None:
            add_lora(model.blocks, self.lora_rank)
        return model


class Transformer(nn.Module):
    """Token ids (batch, seq) to logits (batch, seq, vocab_size)."""

    param_roles: ClassVar[Mapping[str, Role]] = {
        "embedding.weight": ROWS,
        "head.weight": ROWS,  # its fan-in is in the multiplier of the logits
    }

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_model = config.d_model
        check_vocabulary(config.ffns, config.vocab_size, exactly=False)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, d_model)
        self.blocks = nn.ModuleList(_block(config, ffn) for ffn in config.ffns)
        share(self.ffn_layers())
        self.norm = config.norm.build(d_model)
        self.head = nn.Linear(d_model, config.vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        nn.init.normal_(self.head.weight, std=d_model**-0.5)
        if config.tie_head:
            self.head.weight = self.embedding.weight
        base = config.base
        n_layers = None if base is None else base.n_layers  # then a multiplier carries the depth
        self._scale_outputs(n_layers or len(config.ffns))
        self._scale_initial()
        self.multiplier = config.multipliers.head  # of what the head reads

    def _scale_outputs(self, n_layers: int) -> None:
        """Scales weights that write to the residual stream down with depth, as GPT-2 (§2.3)."""
        written: dict[int, Tensor] = {}  # those that blocks share are scaled once
        for block in self.blocks:
            assert isinstance(block, Block)
            written |= {id(weight): weight for weight in block.residual.written(block)}
        with torch.no_grad():
            for weight in written.values():
                weight.mul_((2 * n_layers) ** -0.5)

    def _scale_initial(self) -> None:
        """Initial values as drawn become those of the parametrization."""
        if self.config.base is None:
            return
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, scale in self.scales().items():
                if scale.init != 1:
                    parameters[name].mul_(scale.init)

    def scales(self) -> dict[str, Scale]:
        """Parametrization's factors of each parameter, by name; all 1 where there is no base.

        Raises ValueError for a matrix without a role.
        """
        base = self.config.base
        if base is None:
            return {name: Scale() for name, _ in self.named_parameters()}
        depth = 1.0 if base.n_layers is None else len(self.config.ffns) / base.n_layers
        shapes = self.config.shapes(), self.config.base_shapes()
        return scales(declared_roles(self), *shapes, depth)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """(batch, seq) int64 to (batch, seq, vocab_size).

        cache: what is kept of the tokens before these, which it takes in.
        """
        seen, handed = self.seen(tokens, cache), self.handed(tokens, cache)
        x = self.embedding(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, seen, None if cache is None else cache.layers[i], handed)
        return self.logits(x)

    def handed(self, tokens: Tensor, cache: Cache | None = None) -> Tokens | None:
        """(batch, seq) ids as layers that look at them are handed them; None where none does."""
        if not any(get_block(self, i).ffn.reads_tokens for i in range(len(self.blocks))):
            return None
        end = self.config.document_end
        if cache is not None:
            return cache.tokens(tokens, end)
        return Tokens(tokens, seen_before(tokens, end))

    def seen(self, tokens: Tensor, cache: Cache | None = None) -> Seen:
        """Mask and turns of (batch, seq) tokens, as attention is told them."""
        end, seq = self.config.document_end, tokens.shape[1]
        start, mask = 0, None
        if cache is not None:
            start, mask = cache.length, cache.mask(tokens, end)
        elif end is not None:
            mask = document_mask(tokens, end)
        places = torch.arange(start, start + seq, device=tokens.device)
        heads = (self.config.n_heads, self.config.d_head)
        return seen_at(self.config.positions, places, start + seq, heads, mask)

    def logits(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model), after the last block, to (batch, seq, vocab_size)."""
        x = self.norm(x)
        logits: Tensor = self.head(x if self.multiplier == 1 else self.multiplier * x)
        return logits

    def new_cache(self) -> Cache:
        """An empty cache. Raises ValueError if a later token would change what was kept."""
        if self.training:
            raise ValueError("a model in training mode has no cache; call eval() first")
        for layer in self.ffn_layers():
            if not layer.causal:
                raise ValueError(
                    f"{type(layer).__name__} with expert choice compares a token with later ones, "
                    "so it is not causal and can't generate; use a layer of token choice"
                )
        return Cache(len(self.blocks))

    def ffn_layers(self) -> Iterator[FFN]:
        """Feed-forward layers, first block first; of a block that holds several, each."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield from block.ffn.layers()

    @property
    def columns(self) -> Columns | None:
        """Those who have the columns of its tables between them; None: it has them all."""
        found = (layer.execution.columns for layer in self.ffn_layers())
        return next((columns for columns in found if columns is not None), None)

    def set_execution(self, execution: Execution) -> None:
        """How the tables of all layers are read, and what their gradients become."""
        for layer in self.ffn_layers():
            layer.execution = execution


def _block(config: TransformerConfig, ffn: FFNConfig) -> Block:
    d_model, multipliers = config.d_model, config.multipliers
    attention = config.attention.build(d_model, config.d_head, multipliers.attention)
    norms = (config.norm.build(d_model) for _ in config.residual.norms)
    return Block(config.residual, attention, ffn.build(d_model), norms, multipliers.residual)


def get_block(model: Transformer, i: int) -> Block:
    """Block i, from 0."""
    block = model.blocks[i]
    assert isinstance(block, Block)
    return block
