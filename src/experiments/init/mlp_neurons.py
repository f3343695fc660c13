"""Hidden units of a transformers model's MLP, read as experts of one neuron.

What is read is checked: the sum over the neurons is held to the MLP itself, in float64, on inputs
at which the units are neither linear nor off. So an MLP with anything more in it (a norm, a scale,
another activation) is refused, whatever its matrices are called.
"""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.init.neurons import Neurons
from experiments.init.slots import Slot
from experiments.models.ffn._base import ACTIVATIONS

_Matrix = tuple[Tensor, Tensor | None]  # a weight (outputs, inputs), and a bias
_N_INPUTS = 16
_TOLERANCE = 1e-6  # of the largest output; gelu and its tanh form differ by 1e-4 of it, at least


@dataclass(frozen=True, kw_only=True)
class HiddenUnits:
    """Neurons (n, d) of an MLP, and its biases.

    down_bias, gate_bias (n,): added to what a neuron's w_down and w_gate read, or None.
    bias (d,): added to the output, or None.
    """

    neurons: Neurons
    down_bias: Tensor | None
    gate_bias: Tensor | None
    bias: Tensor | None

    @property
    def is_biased(self) -> bool:
        """Whether the units have biases, which experts have not."""
        return self.down_bias is not None or self.gate_bias is not None

    def with_constant(self) -> Neurons:
        """Neurons of width d + 1, for inputs whose last feature is 1: it carries the biases.

        They write nothing to the last feature.
        """
        neurons = self.neurons
        gate = neurons.w_gate
        return dataclasses.replace(
            neurons,
            w_down=_beside(neurons.w_down, self.down_bias),
            w_gate=None if gate is None else _beside(gate, self.gate_bias),
            w_up=_beside(neurons.w_up, None),
        )


def read_mlp(slot: Slot) -> HiddenUnits:
    """Hidden units of a slot's MLP, on the CPU: float32, or float64 in a model of that.

    Raises ValueError for an MLP of another build, and for one whose activation is not known here.
    """
    mlp = slot.last
    if slot.first is not slot.last:
        raise ValueError(_refusal(slot, "is two modules"))
    form = next((f for f in slot.forms if all(hasattr(mlp, name) for name in f.names)), None)
    if form is None:
        known = "; ".join(", ".join(f.names) for f in slot.forms)
        raise ValueError(_refusal(slot, f"has none of these sets of matrices: {known}"))
    up = _matrix(slot, form.up)
    gate = (None, None) if form.gate is None else _matrix(slot, form.gate)
    if form.gate == form.up:
        gate, up = _halves(up)
    down = _matrix(slot, form.down)
    rows = (up[0].shape, *(w.shape for w in (gate[0],) if w is not None), down[0].t().shape)
    if set(rows) != {(len(up[0]), slot.d_model)}:
        raise ValueError(
            _refusal(slot, f"has matrices of {', '.join(str(tuple(r)) for r in rows)}")
        )
    units = HiddenUnits(
        neurons=Neurons(w_down=up[0], w_gate=gate[0], w_up=down[0].t(), activation="identity"),
        down_bias=up[1],
        gate_bias=gate[1],
        bias=down[1],
    )
    x = _inputs(units)
    y = _run(slot, x)
    for name in ACTIVATIONS:
        neurons = dataclasses.replace(units.neurons, activation=name)
        found = dataclasses.replace(units, neurons=neurons)
        if (_output(found, x) - y).abs().max() <= _TOLERANCE * y.abs().max():
            return _in_type(found, torch.float64 if slot.dtype == torch.float64 else torch.float32)
    raise ValueError(
        _refusal(
            slot,
            f"is no sum over its neurons with an activation known here ({', '.join(ACTIVATIONS)})",
        )
    )


def _refusal(slot: Slot, why: str) -> str:
    return (
        f"{' + '.join(slot.paths)} ({type(slot.last).__name__}) {why}: its neurons can't be read; "
        "take how='beside', which needs none"
    )


def _matrix(slot: Slot, name: str) -> _Matrix:
    """Weight (outputs, inputs) and the bias of a matrix, float64, on the CPU."""
    module = getattr(slot.last, name)
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor):  # GPT-2's: transposed
        weight = weight.t()
    elif not isinstance(module, nn.Linear):
        weight = None
    if weight is None or weight.dim() != 2 or not weight.is_floating_point():
        kind = type(module).__name__
        raise ValueError(_refusal(slot, f"has a {name} of type {kind}, no plain matrix"))
    bias = module.bias
    return (
        weight.detach().to("cpu", torch.float64),
        None if bias is None else bias.detach().to("cpu", torch.float64),
    )


def _halves(both: _Matrix) -> tuple[_Matrix, _Matrix]:
    """Weight and bias of the first rows, and of the last ones."""
    weight, bias = both
    biases = (None, None) if bias is None else bias.chunk(2)
    first, last = zip(weight.chunk(2), biases)
    return first, last


def _inputs(units: HiddenUnits) -> Tensor:
    """Random inputs (16, d) at which the units' inputs have a standard deviation of about 2."""
    generator = torch.Generator().manual_seed(0)
    width = units.neurons.w_down.shape[1]
    x = torch.randn(_N_INPUTS, width, generator=generator, dtype=torch.float64)
    reads = units.neurons.w_down if units.neurons.w_gate is None else units.neurons.w_gate
    return 2 * x / (x @ reads.t()).std().clamp_min(torch.finfo(x.dtype).tiny)


def _run(slot: Slot, x: Tensor) -> Tensor:
    """MLP's own output, in float64; the MLP is left alone."""
    try:
        with torch.no_grad():
            y = copy.deepcopy(slot.last).to("cpu", torch.float64).eval()(x)
    except Exception as error:  # of a module that takes more than hidden states
        reason = " ".join(str(error).split())
        raise ValueError(_refusal(slot, f"can't be run by itself ({reason})")) from error
    if not (isinstance(y, Tensor) and y.shape == x.shape):
        raise ValueError(_refusal(slot, "gives no hidden states"))
    return y


def _output(units: HiddenUnits, x: Tensor) -> Tensor:
    """Sum over the neurons, and the biases."""
    neurons = units.neurons
    activation = ACTIVATIONS[neurons.activation]
    hidden = F.linear(x, neurons.w_down, units.down_bias)
    if neurons.w_gate is None:
        hidden = activation(hidden)
    else:
        hidden = activation(F.linear(x, neurons.w_gate, units.gate_bias)) * hidden
    return F.linear(hidden, neurons.w_up.t(), units.bias)


def _in_type(units: HiddenUnits, dtype: torch.dtype) -> HiddenUnits:
    def cast(part: Any) -> dict[str, Any]:
        return {n: v.to(dtype) for n, v in vars(part).items() if isinstance(v, Tensor)}

    neurons = dataclasses.replace(units.neurons, **cast(units.neurons))
    return dataclasses.replace(units, neurons=neurons, **cast(units))


def _beside(rows: Tensor, last: Tensor | None) -> Tensor:
    """Rows (n, d) and a last column (n,), or zeros."""
    column = rows.new_zeros(len(rows)) if last is None else last
    return torch.cat([rows, column.unsqueeze(1)], dim=1)
