"""A product-key layer's half of a block, written out in float64 for given indices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.kernels.trunk import find_eps
from experiments.models.ffn._base import ACTIVATIONS, Late
from experiments.models.ffn._product_keys import ProductKeyFFN
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig

D = 32


class Retrievals:
    """A meter that keeps what it is given."""

    def add(self, indices: Tensor, gates: Tensor) -> None:
        self.indices, self.gates = indices, gates


def layer_of(kind: str, **fields: object) -> ProductKeyFFN:
    """A layer with weights that are all of one size, running statistics and a norm of its own."""
    torch.manual_seed(1)
    make = PKMConfig if kind == "pkm" else PEERConfig
    small: dict[str, object] = {"n_experts": 64, "n_heads": 2, "top_k": 5, "d_key": 16}
    layer = make(**(small | fields)).build(D)
    layer.meter = Retrievals()
    for name, values in [*layer.named_parameters(), *layer.named_buffers()]:
        if values.is_floating_point():
            values.data = torch.randn(values.shape).mul_(0.5).to(values.dtype)
            if name.endswith(("running_var", "norm.weight")):
                values.data = values.abs() + 0.5
    return layer


def half_of_block(
    layer: ProductKeyFFN, norm: nn.RMSNorm, x: Tensor, indices: Tensor, times: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """y, the scores of all experts (T, H, N), and the float64 leaves with gradients by name."""
    leaves = {
        name: p.detach().double().requires_grad_()
        for name, p in [*layer.named_parameters(), ("x", x), ("norm", norm.weight)]
    }
    flat, config = leaves["x"].flatten(0, -2), layer.config
    mean_square = flat.square().mean(-1, keepdim=True)
    normed = flat * (mean_square + find_eps(norm)).rsqrt() * leaves["norm"]
    queries = normed @ leaves["query.weight"].T  # (T, H * d_key)
    own = layer.query_norm.norm
    if config.query_norm == "batch":
        scale, shift = (leaves[f"query_norm.norm.{n}"] for n in ("weight", "bias"))
        mean, variance = queries.mean(0), queries.var(0, unbiased=False)
        if own.frozen or not own.training:
            mean, variance = own.running_mean.double(), own.running_var.double()
        queries = (queries - mean) / (variance + own.eps).sqrt() * scale + shift
    queries = queries.view(len(flat), config.n_heads, config.d_key)
    if config.query_norm == "layer":
        scale, shift = (leaves[f"query_norm.norm.{n}"] for n in ("weight", "bias"))
        queries = F.layer_norm(queries, (config.d_key,), scale, shift, own.eps)
    scores = _scores(layer, queries, leaves["sub_keys"])
    picked = scores.gather(-1, indices.view(len(flat), config.n_heads, -1))
    gates = {"softmax": lambda s: s.softmax(-1), "sigmoid": torch.sigmoid, "relu": torch.relu}
    weights = gates[config.score](picked).flatten(1)  # (T, J)
    if "values" in leaves:
        table = leaves["values"]
    else:
        table, act = leaves["w_up"], ACTIVATIONS[config.activation]
        hidden = torch.einsum("td,tjd->tj", normed, leaves["w_down"][indices])
        if config.glu:
            gate = torch.einsum("td,tjd->tj", normed, leaves["w_gate"][indices])
            hidden = act(gate) * hidden
        else:
            hidden = act(hidden)
        weights = weights * hidden
    added = torch.einsum("tj,tjd->td", weights, table[indices])
    return (flat + times * added).view_as(x), scores, leaves


def _scores(layer: ProductKeyFFN, queries: Tensor, sub_keys: Tensor) -> Tensor:
    n_first = layer.config.key_sets[0]
    sets = sub_keys.flatten(-3, -2) if layer.config.n_first_keys is None else sub_keys
    sets = sets if sets.dim() == 3 else sets.expand(layer.n_heads, *sets.shape)
    first, second = sets[:, :n_first], sets[:, n_first:]
    if layer.late is not None and layer.late.bias is None:
        first, n_first = first[:, : layer.late.n_old], layer.late.n_old
    width = layer.d_key // 2
    a = torch.einsum("thw,hsw->ths", queries[..., :width], first)
    b = torch.einsum("thw,hsw->ths", queries[..., width:], second)
    if layer.late is not None and layer.late.bias is not None:
        a = torch.cat(
            [a[..., : layer.late.n_old], a[..., layer.late.n_old :] + layer.late.bias], -1
        )
    return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)


LATE = {"late": Late(n_old=5, bias=torch.tensor(-0.3)), "out of reach": Late(n_old=5, bias=None)}
