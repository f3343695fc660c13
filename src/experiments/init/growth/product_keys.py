"""Layers of product keys grow by sub-keys of the first half.

S1 of them become more, the second half's S2 stay, and expert i is the pair (i // S2, i % S2) before
and after. Channels that have experts of their own each get as many (models/ffn/sgatlin.py). So new
experts are new rows at the end of the tables, and old rows, their moments and their usage are where
they were. Naively grown, a layer is another one: new keys outscore old ones
(tests/init/test_growth.py measures it).

bias    New keys are drawn around random old ones, and a bias on their scores keeps them back. The
        FLOPs a token are those of more keys.
copies  Each key, and each expert of it, m times, and m times top_k: all copies of what was
        retrieved are retrieved, and share its gate. FLOPs are m times as many.

A query's norm doesn't depend on how many keys there are: batch norm's statistics go along.
"""

from dataclasses import replace

import torch
from torch import Tensor

from experiments.init.growth import Grower
from experiments.init.growth._copies import add_noise, check_multiple
from experiments.kernels.ops import product_key_topk
from experiments.models.ffn._base import Late
from experiments.models.ffn._product_keys import KeyedConfig, KeyedFFN
from experiments.models.roles import find_tables


class ProductKeys(Grower):
    """PEER, PKM, and others of the same routing: their tables are those that their roles say."""

    config = KeyedConfig
    ways: tuple[str, ...] = ("bias", "copies", "beside")

    def grown(self, config: KeyedConfig, n_experts: int, how: str) -> KeyedConfig:
        if (name := config.shared_by_blocks) is not None:
            raise ValueError(
                f"{name}=true: a layer whose {name.rpartition('_')[2]} others read can't grow "
                f"without them; train one with {name}=false"
            )
        old, top_k, (n_old, n_second) = config.n_experts, config.top_k, config.key_sets
        of_each = old // n_old  # experts of a sub-key of the first half
        if how == "copies":
            check_multiple(n_experts, old, "the experts that the layer has")
            top_k *= n_experts // old
        else:
            check_multiple(n_experts, of_each, "the experts of a sub-key of the half that grows")
        if how == "beside":
            n_experts -= old
            if n_experts // config.n_groups < top_k:
                raise ValueError(
                    f"n_experts={old + n_experts} leaves {n_experts} for the layer beside, which "
                    f"retrieves top_k={top_k}; give n_experts="
                    f"{old + -(-top_k // n_second) * of_each} or more"
                )
        n_first = n_experts // of_each
        return replace(config, n_experts=n_experts, n_first_keys=n_first, top_k=top_k)

    def in_grown(
        self, name: str, tensor: Tensor, layer: KeyedFFN, grown: KeyedFFN, how: str
    ) -> Tensor:
        if name == "sub_keys":
            first, second = split_halves(tensor, layer.config)
            n_new = grown.config.key_sets[0] - layer.config.key_sets[0]
            return torch.cat([first, _more(first, n_new, -2, how), second], dim=-2)
        if name in find_tables(layer):
            return torch.cat([tensor, _more(tensor, grown.n_experts - layer.n_experts, 0, how)])
        return tensor

    def begin(
        self,
        grown: KeyedFFN,
        layer: KeyedFFN,
        *,
        how: str,
        noise: float,
        generator: torch.Generator,
    ) -> None:
        if how == "bias":
            _fill(grown, layer, noise, generator)
            grown.late = Late(n_old=self.n_old(layer.config), bias=None)
            return
        n_copies = grown.n_experts // layer.n_experts
        for table in _tables(grown, writes=True):
            add_noise(table, n_copies, noise, generator)
            if not layer.config.shares_gates:  # they add up to m times as much
                table.div_(n_copies)

    def n_old(self, config: KeyedConfig) -> int:
        return config.key_sets[0]

    def d_model(self, layer: KeyedFFN) -> int:
        return layer.query.in_features  # rows may be narrower

    @torch.no_grad()
    def late_depth(self, grown: KeyedFFN, x: Tensor) -> float:
        """Then the best new product key is no better than the worst one that is retrieved."""
        assert grown.late is not None
        n_old, (n_first, _) = grown.late.n_old, grown.config.key_sets
        first, second = split_halves(grown.sub_keys, grown.config)
        old = torch.cat([first[..., :n_old, :], second], -2)
        new = torch.cat([first[..., n_old:, :], second], -2)
        queries = grown.queries(x)
        retrieved, _ = product_key_topk(queries, old, grown.top_k, n_first=n_old)
        best, _ = product_key_topk(queries, new, 1, n_first=n_first - n_old)
        return max(0.0, float((best[..., 0] - retrieved[..., -1]).max()))


def split_halves(sub_keys: Tensor, config: KeyedConfig) -> tuple[Tensor, Tensor]:
    """(..., S1, d_key / 2) and (..., S2, d_key / 2) of a layer's sub-keys."""
    if config.n_first_keys is None:
        return sub_keys[..., 0, :, :], sub_keys[..., 1, :, :]
    return sub_keys[..., : config.n_first_keys, :], sub_keys[..., config.n_first_keys :, :]


def _more(tensor: Tensor, n: int, dim: int, how: str) -> Tensor:
    """n further entries: zeros, or the old ones over and over."""
    if how == "bias":
        shape = list(tensor.shape)
        shape[dim] = n
        return tensor.new_zeros(shape)
    return torch.cat([tensor] * (n // tensor.shape[dim]), dim=dim)


def _fill(grown: KeyedFFN, layer: KeyedFFN, noise: float, generator: torch.Generator) -> None:
    """New keys are near old ones. New experts read at random, and write nothing yet."""
    n_old, n_all = layer.config.key_sets[0], grown.config.key_sets[0]
    old, _ = split_halves(layer.sub_keys, layer.config)
    like = torch.randint(n_old, (n_all - n_old,), generator=generator)
    shape = (*old.shape[:-2], n_all - n_old, old.shape[-1])
    drawn = torch.randn(shape, generator=generator).to(old)
    grown.sub_keys[..., n_old:n_all, :] = old[..., like, :] + noise * old.std() * drawn
    for table in _tables(grown, writes=False):
        new = table[layer.n_experts :]
        new.copy_(torch.randn(new.shape, generator=generator) * new.shape[1] ** -0.5)


def _tables(layer: KeyedFFN, *, writes: bool) -> list[Tensor]:
    """Those whose rows write to the residual stream, or those that read."""
    written = {id(weight) for weight in layer.output_weights()}
    return [table for table in find_tables(layer).values() if (id(table) in written) == writes]


GROWER = ProductKeys()
