"""Same layers as others write them, on our weights: PyPI's, and the plain way in torch.

Weights are shared where the layouts agree, so that a table of gigabytes exists once, and copied
where they don't; so outputs can be compared as well as times.
"""

from importlib import import_module

import torch
from torch import Tensor, nn

from experiments.kernels import reference
from experiments.models.ffn.peer import PEER
from experiments.models.ffn.pkm import PKM
from experiments.system.version import install

PEER_PYTORCH = "PEER-pytorch"
PRODUCT_KEY_MEMORY = "product-key-memory"
NAIVE = "naive"


def absent(device: str, table_dtype: torch.dtype) -> dict[str, str]:
    """Rivals that can't run: a line about each, with how to get those not installed."""
    found = {}
    for name, module in (
        (PEER_PYTORCH, "PEER_pytorch"),
        (PRODUCT_KEY_MEMORY, "product_key_memory"),
    ):
        try:
            import_module(module)
        except ImportError as error:
            found[name] = f"{name} is left out ({error}): {install('bench')}"
    if device == "cuda" and table_dtype != torch.float32 and PRODUCT_KEY_MEMORY not in found:
        # a GPU's autocast makes its gates float32, and embedding_bag wants both of one type
        found[PRODUCT_KEY_MEMORY] = f"{PRODUCT_KEY_MEMORY} is left out: its tables must be float32"
    return found


def peer_pytorch(layer: PEER) -> nn.Module:
    """PyPI's PEER (lucidrains) that computes what `layer` does."""
    from PEER_pytorch import PEER as Rival

    with torch.device("meta"):
        rival = Rival(
            layer.w_down.shape[1],
            heads=layer.n_heads,
            num_experts=layer.n_experts,
            num_experts_per_head=layer.top_k,
            dim_key=layer.d_key // 2,
            # the default, True, takes one expert a head whatever num_experts_per_head says, and
            # gates by ReLU: not the paper's layer, and a sixteenth of its reads
            non_competing_scores=False,
        )
    rival.weight_down_embed.weight = layer.w_down
    rival.weight_up_embed.weight = layer.w_up
    rival.to_queries[0].weight = _halves_first(layer)
    rival.keys = _halves_third(layer)
    return _real(rival)


def product_key_memory(layer: PKM) -> nn.Module:
    """PyPI's PKM (lucidrains) that computes what `layer` does."""
    from product_key_memory import PKM as Rival

    with torch.device("meta"):
        rival = Rival(
            layer.values.shape[1],
            heads=layer.n_heads,
            num_keys=layer.sub_keys.shape[-2],
            topk=layer.top_k,
            dim_head=layer.d_key // 2,
        )
    # it normalises each half of a query, which ours can't; without, both compute the same, and
    # the rival does less
    rival.norm = nn.Identity()
    rival.values.weight = layer.values
    rival.to_queries.weight = _halves_first(layer)
    rival.keys = _halves_third(layer)
    return _real(rival)


class Naive(nn.Module):
    """PEER by the book, from `layer`'s tensors: gathered rows are held as (T, J, D)."""

    def __init__(self, layer: PEER) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        layer, tokens = self.layer, x.flatten(0, -2)
        queries = layer.query(tokens).view(len(tokens), layer.n_heads, layer.d_key)
        scores, indices = stock_topk(queries, layer.sub_keys, layer.top_k)
        indices, gates = indices.flatten(1), layer.score(scores).flatten(1)
        hidden = layer.activation(reference.gather_dot(tokens, layer.w_down, indices))
        return reference.gather_sum(layer.w_up, indices, hidden * gates).view_as(x)


def stock_topk(queries: Tensor, sub_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """product_key_topk with torch.topk, all k² pairs and a dense gradient of all scores.

    queries (T, H, d_key), sub_keys (H, 2, S, d_key / 2) to (T, H, K) scores and indices.
    """
    halves = queries.unflatten(-1, (2, -1))
    best = torch.einsum("thpd,hpsd->thps", halves, sub_keys).topk(top_k, dim=-1)
    (left, right), (i, j) = best.values.unbind(2), best.indices.unbind(2)
    sums = (left.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)
    pairs = (i.unsqueeze(-1) * sub_keys.shape[-2] + j.unsqueeze(-2)).flatten(-2)
    chosen = sums.topk(top_k, dim=-1)
    return chosen.values, pairs.gather(-1, chosen.indices)


def _halves_first(layer: PEER | PKM) -> nn.Parameter:
    """Query's weight with rows by half, head, feature; ours are by head, half, feature."""
    weight = layer.query.weight.detach()
    by_head = weight.unflatten(0, (layer.n_heads, 2, -1))
    return nn.Parameter(by_head.transpose(0, 1).reshape(weight.shape))


def _halves_third(layer: PEER | PKM) -> nn.Parameter:
    """Sub-keys as (H, S, 2, d); ours are (H, 2, S, d)."""
    return nn.Parameter(layer.sub_keys.detach().transpose(1, 2).contiguous())


def _real(rival: nn.Module) -> nn.Module:
    missing = [name for name, p in rival.named_parameters() if p.is_meta]
    assert not missing, f"without values: {missing}"
    return rival
