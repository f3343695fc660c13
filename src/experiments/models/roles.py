"""Roles of a model's matrices: each module declares those of its own, by `param_roles`.

Rates, decay, the parametrization and optimizers follow from it; they know no layer by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

Group = Literal["backbone", "table", "key"]


@dataclass(frozen=True)
class Role:
    """fan_in: the axis that a product with the matrix sums over. None: its rows are looked up, and
    summed as they are, so that one weight makes one output: a fan-in of one.
    group: whose learning rate and decay it has. table: rows of experts or values (own rate, no
    decay). key: queries and product keys (own rate, no decay).

    Where the width changes, the initial values go as the inverse root of that axis; of rows, of a
    row's length (tests/models/test_parametrization.py holds layers to it).
    """

    fan_in: int | None
    group: Group = "backbone"

    @property
    def is_map(self) -> bool:
        """Whether it is a map of the backbone, or a stack of maps."""
        return self.fan_in is not None and self.group == "backbone"

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Fan-out and fan-in of a map, or of each of a stack: the last two axes."""
        assert self.fan_in is not None
        last, before = len(shape) - 1, len(shape) - 2
        fan_in = self.fan_in % len(shape)
        return (shape[last], shape[before]) if fan_in == before else (shape[before], shape[last])


MAP = Role(fan_in=1)  # nn.Linear's weight, and a stack of (n, fan_in, fan_out)
ROWS = Role(fan_in=None)


def declared_roles(model: nn.Module) -> dict[str, Role]:
    """By the name of the parameter; those of modules within others included."""
    found: dict[str, Role] = {}
    present = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for prefix, module in model.named_modules():
        own: Mapping[str, Role] = getattr(module, "param_roles", {})
        for path, role in own.items():
            name = f"{prefix}.{path}" if prefix else path
            if name in present:  # a gate's table is there only with gated experts
                found[name] = role
    return found


def find_tables(module: nn.Module) -> dict[str, nn.Parameter]:
    """Its tables of rows, by name."""
    named = dict(module.named_parameters(remove_duplicate=False))
    roles = declared_roles(module)
    return {name: named[name] for name, role in roles.items() if role.group == "table"}


def undeclared(model: nn.Module) -> Iterator[str]:
    """Matrices of no role, each with the layer that it is of: 'blocks.0.ffn.mix of Mine'."""
    roles = declared_roles(model)
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and name not in roles:
            parts = name.split(".")
            above = [modules[".".join(parts[:i])] for i in range(len(parts))]
            owner = next((m for m in reversed(above) if hasattr(m, "param_roles")), model)
            yield f"{name} of {type(owner).__name__}"


def check_declared(model: nn.Module, why: str) -> None:
    """Raises ValueError if a matrix has no role. why: the setting that needs roles."""
    for name in undeclared(model):
        raise ValueError(
            f"{why} needs the role of each matrix, and {name} has none; declare it in the layer's "
            "param_roles (docs/parametrization.md), or leave the setting out"
        )
