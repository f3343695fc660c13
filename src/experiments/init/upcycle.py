"""Sparse upcycling: a mixture of experts whose experts begin as copies of a dense layer.

Komatsuzaki 2022 (arXiv:2212.05055); parts of a layer as experts: He 2024 (arXiv:2410.07524);
copies that differ from the start: Nakamura 2025 (Drop-Upcycling, arXiv:2502.19261).
"""

import torch
from torch import Tensor

from experiments.config.constraints import shown
from experiments.models.ffn._base import MLP
from experiments.models.ffn.moe import MoE

# The router's logits have this standard deviation, for inputs of mean square 1. Which experts a
# token gets doesn't depend on it; gates that are not made to sum to 1 begin within a few of it.
_ROUTER_SPREAD = 1e-2


def upcycle(layer: MoE, ffn: MLP, *, reinit: float, generator: torch.Generator) -> None:
    """Makes every expert a copy of the dense layer, or of a part of it, and the router at random.

    Fine-grained experts are narrower than the layer: its hidden units are cut into as many parts
    as are needed. The first ones go to the shared experts, which every token has. The others, one
    after the other, are a group of routed experts that has the same row in the router ("virtual
    group" of arXiv:2410.07524), so a token that takes one takes them all. w_out is scaled by what
    makes the gates of a part sum to 1.

    Exact, whatever the router says, where gates sum to 1 over what a token takes and that is whole
    groups: token choice with top_k of 2 or more, or expert choice with capacity_factor=n_experts
    and gate=softmax. Token choice with top_k=1 is exact to a few per cent: its gate is near the
    1 / n_experts (sigmoid: 1/2) that the scale makes up for. With expert choice at a smaller
    capacity some tokens are taken by no group and others by several: right on average only.

    reinit: the share of the hidden units of each routed copy that are random again, as normals of
    mean and deviation of the layer's own matrices (Drop-Upcycling; its choice is 0.5). Above 0 no
    start is exact.

    Raises ValueError if the mixture can't hold the layer.
    """
    n_parts = count_parts(layer, ffn)
    config, width = layer.config, layer.w_in.shape[2]
    n_shared = config.n_shared_experts
    n_routed = n_parts - n_shared
    d_model = layer.router.in_features
    groups = torch.randn(layer.n_experts // n_routed, d_model, generator=generator)
    with torch.no_grad():
        layer.router.weight.copy_(
            groups.repeat_interleave(n_routed, 0) * _ROUTER_SPREAD * d_model**-0.5
        )
        layer.selection_bias.zero_()
        w_in, w_gate, w_out = ffn.w_in.weight.t(), _transposed(ffn.w_gate), ffn.w_out.weight.t()
        scale = _scale(layer, n_routed)
        for e in range(layer.n_experts):
            first = (n_shared + e % n_routed) * width
            units = slice(first, first + width)
            fresh = torch.rand(width, generator=generator).argsort()[: round(reinit * width)]
            layer.w_in[e] = w_in[:, units]
            layer.w_in[e][:, fresh] = _like(w_in, (d_model, len(fresh)), generator)
            if layer.w_gate is not None and w_gate is not None:
                layer.w_gate[e] = w_gate[:, units]
                layer.w_gate[e][:, fresh] = _like(w_gate, (d_model, len(fresh)), generator)
            layer.w_out[e] = w_out[units]
            layer.w_out[e][fresh] = _like(w_out, (len(fresh), d_model), generator)
        layer.w_out.mul_(scale)
        n = n_shared * width
        for into, matrix in (
            (layer.shared_in, ffn.w_in.weight[:n]),
            (layer.shared_gate, None if ffn.w_gate is None else ffn.w_gate.weight[:n]),
            (layer.shared_out, ffn.w_out.weight[:, :n]),
        ):
            if into is not None and matrix is not None:
                into.weight.copy_(matrix)


def _scale(layer: MoE, n_routed: int) -> float:
    """1 over the sum of the gates that a part has at a token on average, with equal logits."""
    config, n = layer.config, layer.n_experts
    mean_gate = {"softmax": 1 / n, "sigmoid": 0.5}[config.gate]
    if config.routing == "token_choice" and config.top_k > 1:
        mean_gate = 1 / config.top_k
    groups_per_token = config.experts_per_token / n_routed
    return 1 / (mean_gate * groups_per_token)


def _transposed(linear: torch.nn.Linear | None) -> Tensor | None:
    return None if linear is None else linear.weight.t()


def _like(matrix: Tensor, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Normals of the matrix's mean and standard deviation."""
    return torch.randn(shape, generator=generator).to(matrix) * matrix.std() + matrix.mean()


def count_parts(layer: MoE, ffn: MLP) -> int:
    """Into how many parts the layer is cut. Raises ValueError where that can't be."""
    config = layer.config
    d_ff, d_model = ffn.w_in.weight.shape
    _, d_moe, width = layer.w_in.shape
    if d_moe != d_model:
        raise ValueError(f"a mixture of width {d_moe} can't hold a dense layer of width {d_model}")
    if layer.activation is not ffn.activation:
        raise ValueError(
            f"activation={config.activation} is not the dense layer's: give the mixture its own"
        )
    gated = ffn.w_gate is not None
    if config.glu != gated:
        raise ValueError(
            f"glu={shown(config.glu)}, but the dense layer is "
            f"{'gated' if gated else 'not gated'}: give glu={shown(gated)}"
        )
    if d_ff % width:
        raise ValueError(
            f"experts of {width} hidden units can't share out the dense layer's {d_ff}: "
            f"give a width_factor of {d_ff / d_model:g} and a granularity that divides {d_ff}"
        )
    n_parts = d_ff // width
    n_routed = n_parts - config.n_shared_experts
    if n_routed < 1:
        raise ValueError(
            f"n_shared_experts={config.n_shared_experts} are the whole dense layer, which is "
            f"{n_parts} experts wide: give fewer of them or a larger granularity"
        )
    if layer.n_experts % n_routed:
        lower = layer.n_experts // n_routed * n_routed
        raise ValueError(
            f"n_experts={layer.n_experts} must be a multiple of {n_routed}, the parts of the dense "
            f"layer that are routed; nearest: {lower or n_routed}, {lower + n_routed}"
        )
    if config.routing == "token_choice" and config.top_k % n_routed:
        raise ValueError(
            f"top_k={config.top_k} must be a multiple of {n_routed}, the parts of the dense layer "
            "that are routed: a token would get a piece of the layer; or lower the granularity"
        )
    return n_parts
