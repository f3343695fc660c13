"""Which experts a layer reads for each token, and what each of them writes: for those who look.

A layer reads J slots for a token: h * k experts by product keys, the k of a mixture, or all hidden
units of a dense layer. What it writes is the sum over its slots, and what it has beside them:

    y_t = sum over j of written(x)_tj, + beside(x)_t
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from experiments.kernels.ops import Indices
from experiments.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Readings of T tokens in J slots each. One expert may be in several of a token's.

    experts: (T, J) int64. gates: (T, J), at least 0, how much each is used: what usage and
    unevenness sum (models/usage.py); of a hidden unit |activation| * ||row||. weights: (T, J), what
    the expert's row is multiplied by: its gate, times its activation where it has one.
    all_experts: whether every token has all of them, so that only the largest gates tell of it.
    """

    experts: Tensor
    gates: Tensor
    weights: Tensor
    all_experts: bool = False


class Slotted(ABC):
    """A layer (FFN) that says what its slots are. x is (T, d_model), what its block's norm gives.

    tokens: what x is of, T of them, for a layer that reads_tokens; another needs none. But for such
    layers tokens don't meet: a token's slots are the same whatever the others are.
    """

    def why_no_slots(self) -> str | None:
        """Why it can't say so with the settings that it has, in words; None: it can."""
        return None

    @abstractmethod
    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        """Readings of each token, as in a forward pass. A meter counts them as one."""

    @abstractmethod
    def expert_rows(self) -> dict[str, Tensor]:
        """Views (N, ...), by name, of all parameters of which row i is expert i's alone. The last
        is what it writes through: with zeros there it writes nothing, and others what they did
        (but of engram, whose gate is of all that a token reads).
        """

    def slot_rows(self) -> Tensor:
        """(N, ...), the last of expert_rows."""
        *_, last = self.expert_rows().values()
        return last

    def written(self, x: Tensor, slots: Slots) -> Tensor:
        """Each slot's share of the layer's output, (T, J, d_model); for few tokens at a time."""
        rows = F.embedding(slots.experts, self.slot_rows())
        return slots.weights.unsqueeze(-1) * rows.to(slots.weights.dtype)

    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the experts: expert i is in row i // columns, and those of a row
        share the first half of a product key, those of a column the second. None: they have no
        product keys.
        """
        return None

    def beside(self, x: Tensor, tokens: Tokens | None = None) -> Tensor | None:
        """Share of no slot, (T, d_model), as that of shared experts; None: nothing."""
        return None


class Routed(Slotted):
    """A layer whose slots are what route() retrieves. forward() weights them as slots() does."""

    @abstractmethod
    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, d_model) to experts and gates, both (T, J)."""

    def slot_weights(self, x: Tensor, experts: Indices, gates: Tensor) -> Tensor:
        """(T, J), what the rows of experts are multiplied by: the gates, of experts without an
        activation.
        """
        return gates

    def slots(self, x: Tensor, tokens: Tokens | None = None) -> Slots:
        experts, gates = self.route(x)
        return Slots(experts=experts, gates=gates, weights=self.slot_weights(x, experts, gates))
