"""Hidden units of a feed-forward layer as experts of one neuron: He 2024, Eq. 6.

An FFN of two matrices is a sum over its hidden units, w_up_i act(w_down_i . x), and a GLU is
w_up_i act(w_gate_i . x)(w_down_i . x). So each is a PEER expert already, whose gate is 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.config.constraints import shown
from experiments.init.routing import has_own_lines, seed_routing
from experiments.models.ffn._base import ACTIVATIONS, MLP
from experiments.models.ffn.peer import PEER

# Of the spare experts: far enough from their neuron to become something else.
_SPARE_NOISE = 0.5


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """Hidden units (n) of an FFN of width d, one row each, as experts have them.

    w_down (n, d): what a unit reads; with a gate, the factor that the gate multiplies. w_gate
    (n, d), or None without a GLU. w_up (n, d): what it writes. activation: a name in ACTIVATIONS.
    """

    w_down: Tensor
    w_gate: Tensor | None
    w_up: Tensor
    activation: str

    def __len__(self) -> int:
        return len(self.w_down)


def read_neurons(layer: MLP) -> Neurons:
    """Hidden units, as views of its weights without gradients. Raises ValueError for another
    activation than those of experts.
    """
    names = [name for name, function in ACTIVATIONS.items() if function is layer.activation]
    if not names:
        raise ValueError(
            f"the activation of {type(layer).__name__} is not one of {', '.join(ACTIVATIONS)}, "
            "which experts have; set init.how=beside"
        )
    return Neurons(
        w_down=layer.w_in.weight.detach(),
        w_gate=None if layer.w_gate is None else layer.w_gate.weight.detach(),
        w_up=layer.w_out.weight.detach().t(),
        activation=names[0],
    )


def seed_copies(layer: PEER, neurons: Neurons, *, noise: float, generator: torch.Generator) -> None:
    """Seeds a PEER that stands beside the FFN of these neurons; the sum of the two is the FFN.

    The experts read as the neurons do, each neuron as often as any other, and write nothing yet:
    w_up is zero, and what an MLP of the layer's own writes too, so the layer's output is zero to
    the bit, while every expert has a direction that
    meant something before. Copies of a neuron differ by normals of `noise` times the row's root
    mean square; the first copy has none. Queries and keys: routing.seed_routing.

    Raises ValueError if the layer's experts can't read as the neurons do.
    """
    check_alike(layer, neurons)
    _seed(layer, neurons, noise, generator)
    with torch.no_grad():
        for weight in layer.output_weights():
            weight.zero_()


def seed_replace(layer: PEER, neurons: Neurons, *, generator: torch.Generator) -> None:
    """Seeds a PEER that stands instead of the FFN of these neurons.

    Each neuron is one expert. What the layer leaves out at a token is what the h * k retrieved are
    not; were all retrieved, with equal gates, the output would be the FFN's. The factor that makes
    an equal gate 1 is in w_up: k for softmax, which gives each of a head's k experts 1 / k where
    their scores are equal, and 2 for sigmoid, which is 1/2 at a score of 0.

    n_experts is a square, so there may be more experts than neurons. They are spares, which read
    as a neuron does, with noise, and write nothing: they add nothing wrong, and training can use
    them.

    An MLP of the layer's own (shared_width_factor) writes nothing yet.

    Raises ValueError as check_replace does.
    """
    check_replace(layer, neurons)
    order = _seed(layer, neurons, _SPARE_NOISE, generator)
    n = len(neurons)
    w_up = neurons.w_up.new_zeros(layer.n_experts, neurons.w_up.shape[1])
    w_up[:n] = neurons.w_up * _gate_factor(layer)
    with torch.no_grad():
        for weight in layer.output_weights():
            weight.zero_()
        layer.w_up.copy_(w_up[order])


def check_replace(layer: PEER, neurons: Neurons) -> None:
    """Raises ValueError if the experts can't read as the neurons do or are fewer, where two heads
    would retrieve the same experts, which then count twice, and for scores that are no gates.

    Looks at no values: both may be on the meta device.
    """
    check_alike(layer, neurons)
    _gate_factor(layer)
    n, n_experts = len(neurons), layer.n_experts
    if layer.config.output_gate:
        raise ValueError(
            "output_gate=true multiplies what experts write by a gate of the input, which an FFN "
            "does not have: give output_gate=false"
        )
    if layer.config.n_first_keys is not None:
        raise ValueError(
            f"n_first_keys={layer.config.n_first_keys} can't be seeded from an FFN, whose neurons "
            "are laid out in a square; leave it out"
        )
    if n_experts < n:
        raise ValueError(
            f"n_experts={n_experts} is too few to replace an FFN of {n} hidden units, each an "
            f"expert: give at least n_experts={(math.isqrt(n - 1) + 1) ** 2}"
        )
    if layer.n_heads > 1 and not has_own_lines(layer):
        raise ValueError(
            f"n_heads={layer.n_heads} would retrieve the same experts in place of an FFN: give "
            "share_keys=false, query_norm=layer, d_key of at least 6 and at most "
            f"{layer.sub_keys.shape[-2]} heads, or n_heads=1"
        )
    if layer.query_norm.kind == "batch":
        raise ValueError(
            "query_norm=batch has statistics of text, which a layer that replaces an FFN starts "
            "without: give query_norm=layer"
        )


def _seed(layer: PEER, neurons: Neurons, noise: float, generator: torch.Generator) -> Tensor:
    """Sets all but w_up; returns the order in which the experts take the neurons, repeated."""
    picked = torch.arange(layer.n_experts) % len(neurons)
    rows = [neurons.w_down[picked]]
    if neurons.w_gate is not None:
        rows.append(neurons.w_gate[picked])
    n = len(neurons)
    for matrix in rows:
        later = matrix[n:]
        size = later.square().mean(1, keepdim=True).sqrt()
        later += noise * size * torch.randn(later.shape, generator=generator).to(later)
    # A unit is active where its gate is, or what it reads without one; what it writes then counts.
    retrieve = rows[-1] * neurons.w_up.norm(dim=1)[picked].unsqueeze(1)
    order = seed_routing(layer, retrieve, retrieve, generator)
    with torch.no_grad():
        layer.w_down.copy_(rows[0][order])
        if layer.w_gate is not None:
            layer.w_gate.copy_(rows[1][order])
    return order


def _gate_factor(layer: PEER) -> float:
    """1 over the gate that the layer gives each retrieved expert where all scores are 0."""
    name = layer.config.score
    if name == "relu":
        raise ValueError(
            "score=relu has no gate at a score of 0, so no factor makes it the FFN's 1: "
            "give score=softmax or sigmoid"
        )
    return {"softmax": float(layer.top_k), "sigmoid": 2.0}[name]


def check_alike(layer: PEER, neurons: Neurons) -> None:
    """Raises ValueError if the layer's experts can't be such neurons."""
    gated, config = neurons.w_gate is not None, layer.config
    if config.glu != gated:
        raise ValueError(
            f"glu={shown(config.glu)}, but the FFN's hidden units are "
            f"{'gated' if gated else 'not gated'}: give glu={shown(gated)}"
        )
    if config.activation != neurons.activation:
        raise ValueError(
            f"activation={config.activation} is not the FFN's: give activation={neurons.activation}"
        )
    if config.d_query_rank is not None:
        raise ValueError(
            f"d_query_rank={config.d_query_rank} is too narrow for queries that retrieve by what "
            "an FFN's hidden units read: leave it out (null)"
        )
    if not config.share_experts:
        raise ValueError(
            "share_experts=false: an FFN's hidden units are laid out in one square, not in one a "
            "head: give share_experts=true"
        )
    width, wanted = layer.w_down.shape[1], neurons.w_down.shape[1]
    if width != wanted:
        raise ValueError(
            f"a layer of width {width} can't take hidden units of width {wanted}: "
            "build it at the FFN's width"
        )
