"""Engram: rows looked up by hashes of the last few token ids, let in by a gate of the hidden state.

2026, arXiv:2601.07372, by its abstract and the equation as our notes have it, and held to the
authors' engram_demo_v1.py (deepseek-ai/Engram at 11a020e5). For each order n of 2 to N, and each of
K hashes, a table of its own; e is what a token reads of all of them, one after the other. The hash
is a formula of the ids alone: the same on every machine, and in an export.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, Term
from experiments.config.constraints import AtLeast1, Within, check_fields
from experiments.config.effects import Above, Drawn
from experiments.config.fields import added, used
from experiments.models.ffn._base import FFN
from experiments.models.ffn._rows import check_rows, new_rows, read_rows
from experiments.models.ffn._slots import Slots, Slotted
from experiments.models.roles import MAP, ROWS, Role
from experiments.models.tokens import Tokens, given

_PRIME = 2**31 - 1  # a sum of two numbers below it, times a third, is below 2**63
_STEP = 48_271  # multipliers of hashes are its powers
_LEAST = 1e-6  # of |g| under the root, as the authors have it


@dataclass(frozen=True, kw_only=True)
class EngramConfig:
    """n_experts: rows of all tables together, as many in each. max_order: N, the longest n-gram.
    n_hashes: K. d_row: numbers of a row. kernel_size: positions that the convolution reads,
    dilation apart; the authors' dilation is max_order. value_init, table_dtype: of the rows, as
    PEER's.
    gate_root: whether the sigmoid is of sign(g) sqrt(max(|g|, 1e-6)) in place of g, the agreement
        of token and rows, as the authors have it.

    The defaults are ours, of before that code was read, and conf/model has the authors' choices.
    docs/layers.md says what of theirs is not here, line by line. The convolution starts at zero, so
    that y = v at first.
    """

    n_experts: AtLeast1 = 2**20
    max_order: Annotated[int, Within(2, 16)] = 3
    n_hashes: Annotated[int, Within(1, 64)] = 4
    d_row: AtLeast1 = 128
    kernel_size: Annotated[int, Within(1, 64)] = 4
    value_init: str = used(Drawn(), default="normal")
    table_dtype: str = "float32"
    gate_root: bool = added(False)
    dilation: Annotated[int, Within(1, 64)] = added(1, Above("kernel_size", 1), varies=True)

    def __post_init__(self) -> None:
        check_fields(self)
        check_rows(self.value_init, self.table_dtype)
        n, times = self.n_experts, self.n_tables
        if n % times:
            nearest = f"{n // times * times or times}, {(n // times + 1) * times}"
            raise ValueError(
                f"n_experts={n} must be a multiple of the {times} tables that max_order="
                f"{self.max_order} and n_hashes={self.n_hashes} make; nearest: {nearest}"
            )
        if self.n_in_table >= _PRIME:
            raise ValueError(
                f"n_experts={n} gives each of {times} tables {self.n_in_table} rows, and a hash "
                f"has {_PRIME} values; lower n_experts"
            )

    @property
    def n_tables(self) -> int:
        """One for each order from 2 on and each hash; a token reads a row of each."""
        return (self.max_order - 1) * self.n_hashes

    @property
    def n_in_table(self) -> int:
        """Rows of one table."""
        return self.n_experts // self.n_tables

    @property
    def d_read(self) -> int:
        """Numbers that a token reads: the width of e."""
        return self.n_tables * self.d_row

    def cost(self, d_model: int) -> Cost:
        """A row of each table, maps of all to key and value, their gate, and the convolution."""
        d_read = self.d_read
        n_map = d_read * d_model
        return Cost(
            (
                Term(
                    name="values",
                    n_params=self.n_experts * self.d_row,
                    n_active_params=d_read,
                    flops=2 * d_read,
                    seen_by_torch=False,
                    n_tables=1,
                    d_row=self.d_row,
                    kept=d_read,
                    kept_wide=2 * self.n_tables,  # indices
                ),
                Term(name="key", n_params=n_map, flops=2 * n_map, kept=0, kept_wide=d_model),
                # what the gate multiplies, and the sum of both ways
                Term(name="value", n_params=n_map, flops=2 * n_map, kept=2 * d_model),
                # both normed, and their products
                Term(
                    name="agreement",
                    flops=2 * d_model,
                    seen_by_torch=False,
                    kept=0,
                    kept_wide=3 * d_model,
                ),
                Term(
                    name="convolution",
                    n_params=self.kernel_size * d_model,
                    flops=2 * self.kernel_size * d_model,
                    seen_by_torch=False,
                    kept=0,
                    kept_wide=(self.kernel_size + 3) * d_model,
                ),
                Term(name="norms", n_params=3 * d_model),
            )
        )

    def build(self, d_model: int) -> "Engram":
        """Layer at this width."""
        return Engram(d_model, self)


class Engram(FFN, Slotted):
    """y = silu(conv(norm(v))) + v,   v = a W_V e,   a = sigmoid(root(g)),
    g = norm(x) . norm(W_K e) / sqrt(d), and root(g) = sign(g) sqrt(max(|g|, 1e-6)), or g.

    Tensors: values (n_experts, d_row), the tables one after the other, orders outermost;
    w_key.weight and w_value.weight (d_model, d_read); convolution (kernel_size, d_model), the
    weights of a token itself first, then of the one `dilation` before; weights of three norms,
    (d_model,).

    An n-gram, and what the convolution reads, end where the token's document begins: an earlier
    token counts as none, whose number in the hash is 0. n_experts are the rows, so that their use
    is measured: by the gate.

    output_weights() are the values, through which all goes that is written: so new values start at
    zero, and tables learn alone, as PKM's.
    """

    reads_tokens = True
    param_roles: ClassVar[Mapping[str, Role]] = {
        "values": Role(fan_in=None, group="table"),
        "w_key.weight": MAP,
        "w_value.weight": MAP,
        "convolution": ROWS,  # a weight makes one output
    }

    def __init__(self, d_model: int, config: EngramConfig) -> None:
        super().__init__()
        self.config, self.n_experts = config, config.n_experts
        d_read = config.d_read
        self.values = new_rows(
            config.n_experts, config.d_row, config.table_dtype, config.value_init
        )
        self.w_key = nn.Linear(d_read, d_model, bias=False)
        self.w_value = nn.Linear(d_read, d_model, bias=False)
        for linear in (self.w_key, self.w_value):
            nn.init.normal_(linear.weight, std=d_read**-0.5)
        self.input_norm, self.key_norm, self.value_norm = (nn.RMSNorm(d_model) for _ in range(3))
        self.convolution = nn.Parameter(torch.zeros(config.kernel_size, d_model))

    def output_weights(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def find_rows(self, tokens: Tokens) -> Tensor:
        """(batch, seq, n_tables): the row of each table that a token reads, orders outermost.

        With ids t_0, of the token itself, t_1 before it and so on, c_j = t_j + 1, or 0 where t_j is
        not of the document, and p = 2**31 - 1, hash i of all tables has the multiplier
        a = 48271**(i + 1) mod p, and for an n-gram v = (sum over j < n of c_j a**(j + 1)) mod p.
        The row is the remainder of ((v xor v >> 15) a mod p) by the rows of a table: the sum alone
        would put ids that follow one another into few rows.
        """
        config, n_back = self.config, self.config.max_order - 1
        ids = tokens.after(tokens.ids.unsqueeze(-1), n_back).squeeze(-1)
        seq, numbers = tokens.ids.shape[1], []
        for back in range(config.max_order):
            number = ids[:, n_back - back : n_back - back + seq] + 1
            numbers.append(torch.where(tokens.n_before >= back, number, 0))
        rows = []
        for table in range(config.n_tables):
            order, multiplier = 2 + table // config.n_hashes, pow(_STEP, table + 1, _PRIME)
            value = torch.zeros_like(tokens.ids)
            for number in reversed(numbers[:order]):
                value = (value + number) * multiplier % _PRIME
            mixed = (value ^ (value >> 15)) * multiplier % _PRIME
            rows.append(mixed % config.n_in_table + table * config.n_in_table)
        return torch.stack(rows, dim=-1)

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        """(batch, seq, d_model) to the same."""
        tokens = given(tokens, self)
        rows = self.find_rows(tokens)
        gate, v = self._gated(x, rows)
        with torch.autocast(x.device.type, enabled=False):
            y = v + self._mixed(v, tokens)
        self.record_usage(rows, gate.expand_as(rows))
        return y.to(x.dtype)

    def _gated(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gate (batch, seq, 1), and v."""
        read = read_rows(self.values, rows.flatten(0, 1), self.execution)
        e = read.to(x.dtype).view(*x.shape[:2], -1)
        key, value = self.w_key(e), self.w_value(e)
        with torch.autocast(x.device.type, enabled=False):
            wide = self.convolution.dtype
            agree = self.input_norm(x.to(wide)) * self.key_norm(key.to(wide))
            gate = agree.sum(-1, keepdim=True) * x.shape[-1] ** -0.5
            if self.config.gate_root:
                gate = gate.sign() * gate.abs().clamp_min(_LEAST).sqrt()
            gate = gate.sigmoid()
            return gate, gate * value.to(wide)

    def _mixed(self, v: Tensor, tokens: Tokens) -> Tensor:
        """Addend of v, in which tokens meet."""
        return nn.functional.silu(self._convolved(self.value_norm(v), tokens))

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        tokens = given(tokens, self)
        rows = self.find_rows(tokens)
        gate, _ = self._gated(x.view(*tokens.ids.shape, -1), rows)
        experts, gates = rows.flatten(0, 1), gate.expand_as(rows).flatten(0, 1)
        self.record_usage(experts, gates)
        return Slots(experts=experts, gates=gates, weights=gates)

    def expert_rows(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        """Each table has columns of w_value of its own, so that their products add up to v."""
        maps = self.w_value.weight.unflatten(1, (self.config.n_tables, -1))
        return torch.einsum("tjr,djr->tjd", super().written(x, slots), maps)

    def beside(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        """Convolution's part: an activation of a sum over rows and tokens, and of no row."""
        tokens = given(tokens, self)
        _, v = self._gated(x.view(*tokens.ids.shape, -1), self.find_rows(tokens))
        return self._mixed(v, tokens).flatten(0, 1)

    def _convolved(self, u: Tensor, tokens: Tokens) -> Tensor:
        """(batch, seq, d_model) to the same: each feature by itself, of a token's own document."""
        apart, seq = self.config.dilation, u.shape[1]
        n_back = (self.config.kernel_size - 1) * apart
        before = tokens.after(u, n_back)
        total = u * self.convolution[0]
        for back in range(apart, n_back + 1, apart):
            seen = (tokens.n_before >= back).unsqueeze(-1)
            earlier = before[:, n_back - back : n_back - back + seq]
            total = total + torch.where(seen, earlier, 0) * self.convolution[back // apart]
        return total
