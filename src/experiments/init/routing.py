"""Gives a product-key layer queries and sub-keys, so that experts are retrieved by what they read.

A sub-key's score is q(x) . k = x . (W^T k), linear in x: the scores of all sub-keys of one half are
M x, with M = K W of rank d_key / 2 at most. Here M is chosen, and K and W are found for it.
"""

import torch
from torch import Tensor

from experiments.init.clusters import grid, split_lines
from experiments.models.ffn._low_rank import LowRank
from experiments.models.ffn._product_keys import ProductKeyFFN

# The scores' standard deviation at the start. Small, so that the gates of what is retrieved are
# nearly equal, as the neurons of an FFN are; the order is the same at any size.
_SPREAD = 0.5
_NEVER = 100.0  # below any score that is retrieved


def seed_routing(
    layer: ProductKeyFFN, rows: Tensor, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Sets queries and sub-keys, and returns the order (n_experts,) in which experts take `rows`.

    rows (n_experts, d_model): an expert's score at x should be its row's product with x, as far as
    a product key can give it: the sum of the mean row of its place and the mean, over the places,
    of what its line adds. like (n_experts, anything): by what experts are alike (clusters.grid).

    Heads must not retrieve the same experts. Where each has keys of its own and queries have a
    layer norm, whose bias is a constant to put a score on, each head has lines of the grid for
    itself. One line a head is best: then every expert has a score of its own. Else each head is
    given a random half of the input's components to go by, so that their experts differ somewhat.
    """
    n_sub, n_heads = layer.sub_keys.shape[-2], layer.n_heads
    own = has_own_lines(layer)
    groups = split_lines(n_sub, n_heads if own else 1)
    order = grid(like, n_sub, len(groups), generator)
    maps = rows.new_zeros(n_heads, 2, n_sub, rows.shape[1])
    biases = rows.new_zeros(n_heads, n_sub)
    for head in range(n_heads):
        lines = groups[head if own else 0]
        wanted = rows[order[lines]]  # (lines, places, d)
        if n_heads > 1 and not own:
            wanted = wanted * (torch.rand(rows.shape[1], generator=generator) < 0.5)
        of_place = wanted.mean(0)
        maps[head, 0, lines] = (wanted - of_place).mean(1)
        maps[head, 1] = of_place
        biases[head] = -_NEVER
        biases[head, lines] = 0.0
    _set_scores(layer, maps, generator)
    if own:
        _set_biases(layer, biases)
    return order.flatten()


def has_own_lines(layer: ProductKeyFFN) -> bool:
    """Whether the layer can give each head lines of the grid, and so experts, for itself."""
    own_keys = layer.sub_keys.dim() == 4 and layer.n_heads <= layer.sub_keys.shape[-2]
    return own_keys and layer.query_norm.kind == "layer" and layer.d_key >= 6


def _set_scores(layer: ProductKeyFFN, maps: Tensor, generator: torch.Generator) -> None:
    """Makes the scores of head h's half s equal maps[h, s] x, times a factor.

    maps: (n_heads, 2, n_sub, d_model). Exact where their rank is below d_key / 2 - 1, over all
    heads side by side where they share the keys; else the nearest of that rank (Eckart-Young). The
    factor gives the scores a standard deviation of _SPREAD, for inputs of mean square 1 or for any
    inputs under a norm; it is the same for all heads.

    The first component of each half is left free, and the others of a query have no mean for a
    layer norm to take away: it divides by their size alone, and the order of the scores stays.
    """
    half_key = layer.d_key // 2
    shared = layer.sub_keys.dim() == 3
    n_heads, _, n_sub, d_model = maps.shape
    keys = maps.new_zeros(1 if shared else n_heads, 2, n_sub, half_key)
    weights = maps.new_zeros(n_heads, 2, half_key, d_model)
    for half in range(2):
        wanted = maps[:, half]
        # heads that share keys side by side, as one map to more inputs
        stacked = wanted.transpose(0, 1).reshape(1, n_sub, -1) if shared else wanted
        u, s, vh = torch.linalg.svd(stacked, full_matrices=False)
        basis = _basis(half_key, generator).to(maps)
        rank = min(basis.shape[1], s.shape[-1])
        basis, root = basis[:, :rank], s[:, :rank].sqrt()
        keys[:, half] = (u[:, :, :rank] * root.unsqueeze(1)) @ basis.t()
        back = basis @ (root.unsqueeze(2) * vh[:, :rank])
        weights[:, half] = back.view(half_key, n_heads, d_model).transpose(0, 1) if shared else back
    # queries of mean square 1, as a layer norm makes them, and the rest of the factor in the keys
    tiny = torch.finfo(maps.dtype).tiny
    query_size = weights.square().sum((1, 2, 3)).mean().div(layer.d_key).sqrt().clamp_min(tiny)
    score_size = maps.square().sum((1, 3)).mean().sqrt().clamp_min(tiny)
    with torch.no_grad():
        assert not isinstance(layer.query, LowRank), "refused by neurons.check_alike"
        layer.query.weight.copy_((weights / query_size).view_as(layer.query.weight))
        scaled = keys * (_SPREAD * query_size / score_size)
        layer.sub_keys.copy_(scaled[0] if shared else scaled)


def _basis(width: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns (width, width - 2), of mean zero and 0 in the first row; below a
    width of 3, where there is none, the identity.
    """
    if width < 3:
        return torch.eye(width, dtype=torch.float64)
    square = torch.randn(width - 1, width - 1, generator=generator, dtype=torch.float64)
    square[:, 0] = 1.0  # QR keeps its direction first, and makes the others orthogonal to it
    return torch.cat([torch.zeros(1, width - 2).double(), torch.linalg.qr(square).Q[:, 1:]])


def _set_biases(layer: ProductKeyFFN, biases: Tensor) -> None:
    """Adds biases (n_heads, n_sub) to the scores of the first half, through the first component of
    a query's half, which is the layer norm's bias alone. The second half's biases begin at 0.
    """
    norm = layer.query_norm.norm
    assert isinstance(norm, torch.nn.LayerNorm)
    norm.reset_parameters()
    with torch.no_grad():
        norm.bias[:: layer.d_key // 2] = 1.0
        layer.sub_keys[:, 0, :, 0] = biases
