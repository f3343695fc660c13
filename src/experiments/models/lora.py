"""Low-rank adapters beside the linear maps of a trunk's blocks (Hu 2021, arXiv:2106.09685)."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.budget.costs import Term
from experiments.models.roles import MAP, Role

ADAPTERS = ("lora_a", "lora_b")  # the ends of their parameters' names


class LoRALinear(nn.Linear):
    """y = W x + B A x; A is (rank, in_features), normal, and B (out_features, rank), zero.

    The weight keeps its name, so that weights without adapters load. The paper scales B A by
    alpha / rank; here alpha is the rank, and the learning rate does the rest.
    """

    param_roles: ClassVar[Mapping[str, Role]] = {"lora_a": MAP, "lora_b": MAP}

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.normal_(self.lora_a, std=linear.in_features**-0.5)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return super().forward(input) + F.linear(F.linear(input, self.lora_a), self.lora_b)


def adapted(blocks: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and module of what gets adapters: what the parent's class names `adaptable`."""
    for parent in blocks.modules():
        for name in getattr(parent, "adaptable", ()):
            child = getattr(parent, name)
            if child is not None:  # a gate is there only with gated units
                yield parent, name, child


def add_lora(blocks: nn.Module, rank: int) -> None:
    """Puts adapters beside every linear map of `adapted`, in place."""
    for parent, name, linear in list(adapted(blocks)):
        setattr(parent, name, LoRALinear(linear, rank))


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State with adapters added into the maps that they are beside, which keep their types."""
    own = {name: tensor for name, tensor in state.items() if not name.endswith(ADAPTERS)}
    for name in [n for n in state if n.endswith(".lora_a")]:
        stem = name.removesuffix("lora_a")
        product = state[f"{stem}lora_b"].double() @ state[name].double()
        weight = own[f"{stem}weight"]
        own[f"{stem}weight"] = (weight.double() + product).to(weight.dtype)
    return own


def lora_term(blocks: nn.Module, rank: int) -> Term:
    """Adapters of these blocks, which may be on the meta device."""
    n_params = sum(rank * (m.in_features + m.out_features) for _, _, m in adapted(blocks))
    return Term(name="lora", n_params=n_params, flops=2 * n_params)
