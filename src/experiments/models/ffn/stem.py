"""STEM: a gated MLP whose hidden units are not mapped up, but looked up by the token's id.

2026, arXiv:2601.10639, by its abstract and the equation as our notes have it, and held to the
authors' lingua/stem.py (Infini-AI-Lab/STEM at 074979b1). A token reads one row of a table that has
a row for each id, in place of a product with a third of a gated MLP's weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import Within, check_fields
from experiments.config.effects import Drawn
from experiments.config.fields import used
from experiments.models.ffn._base import ACTIVATIONS, FFN, WidthFactor, check_choice
from experiments.models.ffn._rows import INITS, check_rows, new_rows, read_rows
from experiments.models.ffn._slots import Slots, Slotted
from experiments.models.roles import MAP, Role
from experiments.models.tokens import Tokens, given


@dataclass(frozen=True, kw_only=True)
class StemConfig:
    """vocab_size: rows, one for each id of the tokenizer (models/tokens.py checks it).

    width_factor: round(width_factor * d_model) hidden units, as a gated MLP has them; the authors'
        is 8/3.
    activation: of the gate; silu is the paper's. table_dtype: of the rows, as PEER's.
    value_init: of the rows: normal, N(0, d_ff**-0.5) as other tables; zero; or xavier, the
        authors', N(0, (2 / (vocab_size + d_ff))**0.5).

    The defaults are ours, of before that code was read, and conf/model has the authors' choices.
    """

    vocab_size: Annotated[int, Within(1, 2**31)]
    width_factor: WidthFactor = 4.0
    activation: str = "silu"
    value_init: str = used(Drawn(), default="normal")
    table_dtype: str = "float32"

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_rows(self.value_init, self.table_dtype, (*INITS, "xavier"))

    def d_ff(self, d_model: int) -> int:
        """Hidden units at this width, and numbers of a row."""
        return round(self.width_factor * d_model)

    def cost(self, d_model: int) -> Cost:
        """Two maps of d_model x d_ff, and a row of d_ff numbers a token, times the gate."""
        d_ff = self.d_ff(d_model)
        n_map = d_model * d_ff
        return Cost(
            (
                # before and after its activation
                Term(name="gate", n_params=n_map, flops=2 * n_map, kept=2 * d_ff),
                Term(
                    name="values",
                    n_params=self.vocab_size * d_ff,
                    n_active_params=d_ff,
                    flops=2 * d_ff,
                    seen_by_torch=False,
                    n_tables=1,
                    d_row=d_ff,
                    kept=d_ff,
                ),
                Term(name="out", n_params=n_map, flops=2 * n_map, kept=d_ff),
            )
        )

    def build(self, d_model: int) -> "Stem":
        """Layer at this width."""
        return Stem(d_model, self)


class Stem(FFN, Slotted):
    """y = w_out (act(w_gate x) * values[id]).

    Tensors: w_gate.weight (d_ff, d_model), w_out.weight (d_model, d_ff), values (vocab_size, d_ff).
    n_experts are the rows, so that their use is measured.

    output_weights() are the values, through which all goes that w_out writes: so new values start
    at zero, and tables learn alone, as PKM's.
    """

    reads_tokens = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        "w_gate.weight": MAP,
        "w_out.weight": MAP,
        "values": Role(fan_in=None, group="table"),
    }

    def __init__(self, d_model: int, config: StemConfig) -> None:
        super().__init__()
        d_ff = config.d_ff(d_model)
        self.config, self.n_experts = config, config.vocab_size
        self.activation = ACTIVATIONS[config.activation]
        self.w_gate = nn.Linear(d_model, d_ff, bias=False)
        self.w_out = nn.Linear(d_ff, d_model, bias=False)
        for linear in (self.w_gate, self.w_out):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
        self.values = new_rows(config.vocab_size, d_ff, config.table_dtype, config.value_init)

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        """(batch, seq, d_model) to the same."""
        ids = given(tokens, self).ids.reshape(-1, 1)
        self.record_usage(ids, torch.ones_like(ids, dtype=torch.float32))
        opened = self._opened(x)
        rows = read_rows(self.values, ids, self.execution).view_as(opened)
        return self.w_out(opened * rows.to(opened.dtype))

    def _opened(self, x: Tensor) -> Tensor:
        return self.activation(self.w_gate(x))

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        ids = given(tokens, self).ids.reshape(-1, 1)
        ones = torch.ones_like(ids, dtype=x.dtype)
        self.record_usage(ids, ones)
        return Slots(experts=ids, gates=ones, weights=ones)

    def expert_rows(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        return self.w_out(self._opened(x).unsqueeze(1) * super().written(x, slots))
