"""Base of feed-forward variants; each may offer, beside forward(), roles, losses and usage.

The defaults say "nothing special", so a new variant overrides only what it has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config.constraints import Within
from experiments.kernels.ops import Execution
from experiments.models.roles import Role
from experiments.models.tokens import Tokens, given
from experiments.models.usage import ExpertUsage

WidthFactor = Annotated[float, Within(0, 1e4, above=True)]


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's."""
    return F.gelu(x, approximate="tanh")


def identity(x: Tensor) -> Tensor:
    """x."""
    return x


# by name, so that a layer can be pickled, and compared with its copy
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "identity": identity,
}


class Meter(Protocol):
    """A listener that is given each retrieval."""

    def add(self, indices: Tensor, gates: Tensor) -> None:
        """Indices of experts and their gates, of one shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class Late:
    """Experts, or keys of them, that came later than the n_old before them.

    bias: a number, at most 0, that is added to their scores; None: they are out of reach, and the
        layer is what it was before it grew, to the bit.
    """

    n_old: int
    bias: Tensor | None


class FFN(nn.Module):
    """A map of (batch, seq, d_model) to the same, used in place of a block's feed-forward layer.

    param_roles: what its matrices are for, by attribute path (models/roles.py): rates, decay and
        the parametrization follow from it. A matrix without one is of the backbone, and such a
        layer trains in the standard parametrization alone.
    execution: how its tables are read, and what their gradients become.
    balances: whether training has its auxiliary loss and counts its load; not so in an export.
    causal: whether the layer in evaluation mode lets no position see a later one.
    reads_tokens: whether it looks at the ids of its tokens. Then it is called as layer(x, tokens),
        with the Tokens that x is of (models/tokens.py), wherever a trunk calls it.
    by_columns: whether several processes may have the columns of its tables between them: it reads
        them by gather_dot and gather_sum alone. Asked of the class itself, not of those below it.
    recomputes: whether its forward pass leaves no mark but its output, so that it may run twice for
        one step (models/recomputed.py). Asked as by_columns is.
    late: what is kept back while a layer that has grown gets used to it (init/growth); None, and so
        it is in every layer that has not: nothing.
    """

    param_roles: ClassVar[Mapping[str, Role]] = {}
    execution: Execution = Execution()
    balances: bool = True
    causal: bool = True
    reads_tokens: bool = False
    by_columns: ClassVar[bool] = False
    recomputes: ClassVar[bool] = False
    n_experts: int = 0
    late: Late | None = None
    usage: ExpertUsage | None = None  # while it is scored
    meter: Meter | None = None  # of each forward pass in training

    def output_weights(self) -> tuple[Tensor, ...]:
        """Weights that write to the residual stream; their initial values scale with depth."""
        return ()

    def why_not_fused(self) -> str | None:
        """Why fused_half does not compute what this layer does, in words; None if it does."""
        return f"{type(self).__name__} has no fused form"

    def fused_half(self, x: Tensor, norm: nn.RMSNorm, times: float) -> Tensor:
        """x + times * self(norm(x)) by few operators, on a CPU: as training calls it where
        why_not_fused says nothing (models/fused.py). (batch, seq, d_model) to the same.
        """
        return x + times * self(norm(x))

    def layers(self) -> "Iterator[FFN]":
        """Itself, or the layers that it is made of."""
        yield self

    def shared(self) -> tuple[str, ...]:
        """Names of its parameters that layers of its class and config have together in a model:
        the first one's are all theirs (share). A cost's term of them says `shared`.
        """
        return ()

    def studied(self) -> "FFN":
        """Itself, or of a layer beside another the one that a run is about, and trains alone."""
        return self

    def auxiliary_loss(self) -> Tensor | None:
        """Last forward pass's extra loss, to be added to the language-model loss."""
        return None

    def after_step(self) -> None:
        """Called once after each optimizer step (for states that are not trained by gradient)."""

    def record_usage(self, indices: Tensor, gates: Tensor) -> None:
        """Adds gates, of the same shape as indices, to the meters that are attached."""
        if self.usage is not None:
            self.usage.add(indices, gates)
        elif self.meter is not None:
            self.meter.add(indices, gates)


def beside_input(layer: FFN, tokens: Tokens | None) -> tuple[Tokens, ...]:
    """Arguments of a layer's call beside its input: the tokens, if it looks at them."""
    return (given(tokens, layer),) if layer.reads_tokens else ()


def share(layers: Iterable[FFN]) -> None:
    """Gives a model's layers the parameters that they share."""
    first: dict[Any, nn.Parameter] = {}
    for layer in layers:
        for name in layer.shared():
            key = (type(layer), layer.config, name)
            setattr(layer, name, first.setdefault(key, layer.get_parameter(name)))


def second_names(model: nn.Module) -> dict[str, str]:
    """First name of each parameter that has several, by its other names."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    found = ((name, first.setdefault(id(parameter), name)) for name, parameter in named)
    return {name: one for name, one in found if name != one}


class MLP(FFN):
    """Base of a layer that is one MLP, without biases, as its config says (is_mlp).

    w_out act(w_in x), or gated w_out (act(w_gate x) * w_in x).
    """

    activation: Callable[[Tensor], Tensor]  # one of ACTIVATIONS
    w_in: nn.Linear
    w_gate: nn.Linear | None
    w_out: nn.Linear


def check_choice(name: str, value: str, allowed: tuple[str, ...] | Mapping[str, object]) -> None:
    """Raises ValueError unless value is one of the allowed names."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(allowed)}")
