"""What an optimizer of conf/optim answers, and the torch optimizer that loops over the answers.

Groups, steps, the plan's memory, checkpoints, growth and columns of tables ask these questions, and
know no optimizer by name. README.md has one from its file to its record.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from experiments.config.optim import Optim
from experiments.kernels.interface import Kernel, Segments
from experiments.kernels.workspace import use_huge_pages
from experiments.models.parametrization import Scale
from experiments.models.roles import Role

Kind = Literal["backbone", "vectors", "table", "key"]
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A parameter that is trained, as an optimizer is asked about it.

    kind: whose learning rate and decay it has: a matrix of the backbone, a vector, a table of
    experts or values, or a query or key. lr, weight_decay: those of its kind. scale: what the
    model's size does to them (models/parametrization.py); all 1 without a base. role: None, where
    its module declares none. by_rows: its gradient is of the retrieved rows alone.
    """

    tensor: nn.Parameter
    kind: Kind
    role: Role | None
    scale: Scale
    lr: float
    weight_decay: float
    by_rows: bool = False


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Optim, ABC):
    """An optimizer, which a yaml of conf/optim names by its `_target_`: a frozen dataclass with
    settings of its own beside those that all share.

    What it does not take, row AdamW steps where gradients are of rows, and AdamW else (groups.py).
    """

    needs_roles: ClassVar[bool] = False  # True: a matrix without a role is refused
    takes_rows: ClassVar[bool] = False  # True: it is asked about gradients of rows too
    elementwise: ClassVar[bool] = False  # True: columns of a table step as they do in the whole

    @property
    def choice(self) -> str:
        """How a user chooses it: optim=NAME, of the file conf/optim/NAME.yaml."""
        return f"optim={type(self).__module__.rpartition('.')[2]}"

    @abstractmethod
    def takes(self, parameter: Trained) -> bool:
        """Whether it steps this parameter."""

    def settings(self, parameter: Trained) -> dict[str, Any]:
        """lr, weight_decay and others that step() reads of the parameter's group. The schedule sets
        lr before each step. Parameters with equal settings are a group; a checkpoint has them.
        """
        return {
            "lr": parameter.lr * parameter.scale.lr,
            "weight_decay": parameter.weight_decay * parameter.scale.decay,
        }

    @abstractmethod
    def moments(self, parameter: Tensor) -> State:
        """All that it keeps of a parameter between steps, as it is before the first one.

        The plan asks it of parameters on the meta device, and counts the bytes of what has axes.
        """

    @abstractmethod
    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        """One step of parameters of a group that have a gradient, and of their states, in place."""

    def step_rows(
        self,
        table: Tensor,
        state: State,
        group: Mapping[str, Any],
        kernel: Kernel,
        pairs: tuple[Tensor, Segments, Tensor],
    ) -> None:
        """One step in the backward pass (optim.table_gradient=fused), of the rows that
        kernel.row_sums(*pairs) has the gradient of. Asked of who takes rows.
        """
        raise TypeError(f"{self.choice} steps no rows of {tuple(table.shape)}; set takes_rows")


class GroupedOptimizer(torch.optim.Optimizer):
    """Groups of parameters, each of which is stepped by the optimizer under its key `by`.

    by: those of all groups, in their order. The groups themselves, and so the state_dict, hold
    plain values alone.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self.by: list[OptimizerConfig] = []
        super().__init__([dict(group) for group in groups], {})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """torch's, of a group that has its optimizer under `by`."""
        super().add_param_group({k: v for k, v in param_group.items() if k != "by"})
        self.by.append(param_group["by"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "by": self.by}  # copies are made of it

    def _index(self, parameter: Tensor) -> int:
        """Its group's. It is looked for, as a state that is loaded replaces the groups."""
        members = (group["params"] for group in self.param_groups)
        return next(i for i, own in enumerate(members) if any(p is parameter for p in own))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for by, group in zip(self.by, self.param_groups, strict=True):
                stepped = [p for p in group["params"] if p.grad is not None]
                if stepped:
                    by.step(stepped, [self.state[p] or self._begin(p, by) for p in stepped], group)
        return loss

    @torch.no_grad()
    def update(
        self, kernel: Kernel, table: Tensor, values: Tensor, segments: Segments, weights: Tensor
    ) -> None:
        """Execution.update of the fused way: this step's rows, in the backward pass."""
        i = self._index(table)
        by, state = self.by[i], self.state[table]
        state = state or self._begin(table, by)
        by.step_rows(table, state, self.param_groups[i], kernel, (values, segments, weights))
        # a second use of the table in this backward pass is then an error, as it should be
        torch.autograd.graph.increment_version(table)

    def _begin(self, parameter: Tensor, by: OptimizerConfig) -> State:
        self.state[parameter] = state = by.moments(parameter)
        return _settled(state, by)

    def restore(self, parameter: Tensor, saved: Mapping[str, Tensor]) -> None:
        """Goes on with copies of a parameter's saved moments, in the types and on the devices of
        its own: steps are in place, and several runs may grow from one parent.

        Raises ValueError for those of another optimizer.
        """
        by = self.by[self._index(parameter)]
        own = by.moments(torch.empty_like(parameter, device="meta"))
        if saved.keys() != own.keys():
            raise ValueError(
                f"the checkpoint has {', '.join(saved)} of a parameter, and {by.choice} keeps "
                f"{', '.join(own)} of it; go on with the optimizer that the checkpoint is of"
            )
        state = {}
        for name, like in own.items():
            device = parameter.device if like.is_meta else like.device
            state[name] = saved[name].to(device, like.dtype, copy=True)
        self.state[parameter] = _settled(state, by)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's, which casts moments to their parameter's type; these keep their own."""
        super().load_state_dict({**state_dict, "state": {}})
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, parameter in zip(indices, parameters, strict=True):
            saved = state_dict["state"].get(index)
            if saved:
                self.restore(parameter, saved)


def _settled(state: State, by: OptimizerConfig) -> State:
    """State, in huge pages where rows of it are read at random."""
    for moment in state.values() if by.takes_rows else ():
        use_huge_pages(moment)
    return state
