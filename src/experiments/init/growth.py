"""A layer with more experts than it was trained with. What it had keeps its numbers.

PEER and PKM grow by sub-keys of the first half: S1 of them become more, the second half's S2 stay,
and expert i is the pair (i // S2, i % S2) before and after. So new experts are new rows at the end
of the tables, and old rows, their moments and their usage are where they were. Naively grown, a
layer is another one: new keys outscore old ones (tests/init/test_growth.py measures it).

bias    New keys are drawn around random old ones. A bias on their scores keeps them out of reach at
        first, so the function is the old one to the bit, and rises to 0 in the training
        (init/late_keys.py). The FLOPs a token are those of more keys.
copies  Each key, and each expert of it, m times, and m times top_k: all copies of what was
        retrieved are retrieved, and share its gate. Exact to rounding. FLOPs are m times as many.

A mixture of experts gets copies of its experts. Where a token has one expert, it has one of the
copies, and the FLOPs stay (Expert Upcycling, arXiv:2604.19835). With top_k of 2 or more it has all
copies of what it had, m times top_k, as above: at the same top_k copies of the first experts would
take the places of the others, and the output would change by half of its size and more.

A query's norm doesn't depend on how many keys there are: batch norm's statistics go along.
"""

from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.kernels.ops import product_key_topk
from experiments.models.ffn._base import FFN
from experiments.models.ffn._product_keys import Late, ProductKeyConfig, ProductKeyFFN
from experiments.models.ffn.beside import Beside, BesideConfig
from experiments.models.ffn.moe import MoE, MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig

_OF_KEY = "sub_keys"
_TABLES = ("w_down", "w_gate", "w_up", "values")
_CHOICE_NOISE = 1e-3  # copies have equal gates, so the least noise decides between them
_OF_EXPERTS = ("router.weight", "w_in", "w_gate", "w_out", "selection_bias")  # of MoE


def can_grow(config: object) -> TypeGuard[PEERConfig | PKMConfig | MoEConfig]:
    """Whether it is the config of a layer of experts, which can become more."""
    return isinstance(config, (PEERConfig, PKMConfig, MoEConfig))


def grown_config(config: FFNConfig, n_experts: int, how: str) -> FFNConfig:
    """The config of the layer with n_experts. Raises ValueError if it can't have so many."""
    if not can_grow(config):
        raise _unable(type(config).__name__.removesuffix("Config"))
    old = config.n_experts
    if n_experts <= old:
        raise ValueError(
            f"n_experts={n_experts} is not more than the {old} that the layer has; give a larger "
            "number"
        )
    if how not in ("bias", "copies"):
        raise ValueError(f"how={how!r} is not one of bias, copies, beside")
    if isinstance(config, MoEConfig):
        if how == "bias":
            raise ValueError(
                "how=bias grows product keys, and a mixture of experts has none; set how=copies"
            )
        _check_multiple(n_experts, old, "the experts that the layer has")
        return _grown_mixture(config, n_experts)
    n_second = config.key_sets[1]
    if how == "bias":
        _check_multiple(n_experts, n_second, "the sub-keys of the half that stays as it is")
        return replace(config, n_experts=n_experts, n_first_keys=n_experts // n_second)
    _check_multiple(n_experts, old, "the experts that the layer has")
    top_k = config.top_k * (n_experts // old)
    return replace(config, n_experts=n_experts, n_first_keys=n_experts // n_second, top_k=top_k)


def _unable(name: str) -> ValueError:
    return ValueError(f"{name} has no experts that could become more; grow PEER, PKM or a MoE")


def _check_multiple(n_experts: int, unit: int, what: str) -> None:
    if n_experts % unit:
        lower = n_experts // unit * unit
        raise ValueError(
            f"n_experts={n_experts} must be a multiple of {unit}, {what}; "
            f"nearest: {lower}, {lower + unit}"
        )


def _grown_mixture(config: MoEConfig, n_experts: int) -> MoEConfig:
    if config.routing == "expert_choice":
        raise ValueError(
            "routing=expert_choice can't grow: copies would all take the same tokens, and others "
            "none; grow a mixture of routing=token_choice"
        )
    if config.top_k > 1:
        return replace(
            config, n_experts=n_experts, top_k=config.top_k * (n_experts // config.n_experts)
        )
    if config.balance == "none":
        raise ValueError(
            "balance=none with top_k=1 can't grow: of equal copies one would get all tokens for "
            "good; grow a mixture of balance=bias or loss"
        )
    return replace(config, n_experts=n_experts)


def grow(
    layer: FFN,
    n_experts: int,
    *,
    how: str = "bias",
    noise: float = 0.1,
    generator: torch.Generator | None = None,
) -> FFN:
    """A new layer with n_experts, all those of `layer` (PEER, PKM or MoE) among them.

    how: bias | copies (above), or, of PEER and PKM, beside: the layer itself, and beside it one of
    the same kind with the other n_experts, whose outputs are zero. A layer grown by `bias` has its
    new keys out of reach: its attribute `late` says so, and setting that to None lets them in.

    noise: of bias: how far new keys are from old ones, in standard deviations of a key; of copies:
    what tells copies apart, relative to a row's size. It adds up to zero over the copies. Of a
    mixture with top_k=1 it is on the choice, in thousandths of the mean gate.

    The new layer's tensors have the types and devices of the old one's.

    Raises ValueError for a layer that can't grow, fewer experts, and numbers that it can't have.
    """
    config = getattr(layer, "config", None)
    generator = generator or torch.Generator().manual_seed(0)
    if how == "beside" and isinstance(layer, ProductKeyFFN):
        return _beside(layer, n_experts)
    if how == "beside" and isinstance(layer, MoE):
        raise ValueError("how=beside grows product keys; grow a mixture of experts by how=copies")
    if not can_grow(config):
        raise _unable(type(layer).__name__)
    new = grown_config(config, n_experts, how)
    grown = _as_typed(new.build(_width(layer)), layer)
    grow_into(grown, layer, how=how, noise=noise, generator=generator)
    return grown.train(layer.training)


def _as_typed(grown: FFN, layer: FFN) -> FFN:
    """The grown layer, each tensor of the type and on the device of the layer's own."""
    own = dict([*layer.named_parameters(), *layer.named_buffers()])
    for name, tensor in [*grown.named_parameters(), *grown.named_buffers()]:
        tensor.data = tensor.data.to(own[name].device, own[name].dtype)
    return grown


def _beside(layer: ProductKeyFFN, n_experts: int) -> Beside:
    config = layer.config
    assert isinstance(config, (PEERConfig, PKMConfig))
    grown_config(config, n_experts, "bias")  # raises ValueError for what can't be
    n_more = n_experts - config.n_experts
    if n_more < config.top_k:
        n_second = config.key_sets[1]
        least = config.n_experts + -(-config.top_k // n_second) * n_second
        raise ValueError(
            f"n_experts={n_experts} leaves {n_more} for the layer beside, which retrieves top_k="
            f"{config.top_k}; give n_experts={least} or more"
        )
    more = replace(config, n_experts=n_more, n_first_keys=n_more // config.key_sets[1])
    pair = BesideConfig(frozen=config, trained=more).build(_width(layer))
    pair.ffn, pair.layer = layer, _as_typed(pair.layer, layer)
    with torch.no_grad():
        for weight in pair.layer.output_weights():
            weight.zero_()
    return pair.train(layer.training)


def _width(layer: FFN) -> int:
    return layer.output_weights()[0].shape[-1]


def grow_into(
    grown: FFN, layer: FFN, *, how: str, noise: float, generator: torch.Generator
) -> None:
    """Gives a layer of grown_config() the tensors of the one that it has grown from, in place."""
    old = layer.state_dict()
    with torch.no_grad():
        for name, tensor in grown.state_dict().items():
            tensor.copy_(in_grown(name, old[name], layer, grown, how))
        if isinstance(grown, MoE):
            assert isinstance(layer, MoE)
            _tell_experts_apart(grown, layer, noise, generator)
            return
        assert isinstance(grown, ProductKeyFFN)
        assert isinstance(layer, ProductKeyFFN)
        if how == "bias":
            _fill(grown, layer, noise, generator)
            grown.late = Late(n_old=layer.config.key_sets[0], bias=None)
        else:
            _tell_copies_apart(grown, layer, noise, generator)


def in_grown(name: str, tensor: Tensor, layer: FFN, grown: FFN, how: str) -> Tensor:
    """A tensor of the layer's parameter `name`, it or a moment of it, as the grown layer has it.

    Old entries at their places; new ones are zero with bias, and repeat the old ones with copies.
    """
    if isinstance(layer, MoE):
        n_copies = grown.n_experts // layer.n_experts
        return torch.cat([tensor] * n_copies) if name in _OF_EXPERTS else tensor
    assert isinstance(layer, ProductKeyFFN)
    assert isinstance(grown, ProductKeyFFN)
    if name == _OF_KEY:
        first, second = halves_of(tensor, layer.config)
        n_new = grown.config.key_sets[0] - layer.config.key_sets[0]
        return torch.cat([first, _more(first, n_new, -2, how), second], dim=-2)
    if name in _TABLES:
        n_new = grown.n_experts - layer.n_experts
        return torch.cat([tensor, _more(tensor, n_new, 0, how)])
    return tensor


def _more(tensor: Tensor, n: int, dim: int, how: str) -> Tensor:
    """n further entries: zeros, or the old ones over and over."""
    size = tensor.shape[dim]
    if how == "bias":
        shape = list(tensor.shape)
        shape[dim] = n
        return tensor.new_zeros(shape)
    return torch.cat([tensor] * (n // size), dim=dim)


def halves_of(sub_keys: Tensor, config: ProductKeyConfig) -> tuple[Tensor, Tensor]:
    """(..., S1, d_key / 2) and (..., S2, d_key / 2) of a layer's sub-keys."""
    if config.n_first_keys is None:
        return sub_keys[..., 0, :, :], sub_keys[..., 1, :, :]
    return sub_keys[..., : config.n_first_keys, :], sub_keys[..., config.n_first_keys :, :]


def _fill(
    grown: ProductKeyFFN, layer: ProductKeyFFN, noise: float, generator: torch.Generator
) -> None:
    """New keys are near old ones. New experts read at random, and write nothing yet."""
    (n_old, n_second), n_all = layer.config.key_sets, grown.config.key_sets[0]
    old, _ = halves_of(layer.sub_keys, layer.config)
    like = torch.randint(n_old, (n_all - n_old,), generator=generator)
    shape = (*old.shape[:-2], n_all - n_old, old.shape[-1])
    drawn = torch.randn(shape, generator=generator).to(old)
    grown.sub_keys[..., n_old:n_all, :] = old[..., like, :] + noise * old.std() * drawn
    written = grown.output_weights()
    for name in _TABLES:
        table = getattr(grown, name, None)
        if table is not None and not any(table is weight for weight in written):
            new = table[n_old * n_second :]
            new.copy_(torch.randn(new.shape, generator=generator) * new.shape[1] ** -0.5)


def _tell_copies_apart(
    grown: ProductKeyFFN, layer: ProductKeyFFN, noise: float, generator: torch.Generator
) -> None:
    """Adds noise to what copies write. Gates that are not normalised add up to m times as much,
    so rows are an m-th.
    """
    n_copies = grown.n_experts // layer.n_experts
    for table in grown.output_weights():
        _add_noise(table, n_copies, noise, generator)
        if layer.config.score != "softmax":
            table.div_(n_copies)


def _add_noise(table: Tensor, n_copies: int, noise: float, generator: torch.Generator) -> None:
    """To (n_copies * n, ...) in place, in total nothing; else copies would stay equal."""
    copies = table.unflatten(0, (n_copies, -1))
    drawn = torch.randn(copies.shape, generator=generator).to(table)
    size = table.float().square().mean().sqrt()
    copies += noise * size * (drawn - drawn.mean(0))


def _tell_experts_apart(grown: MoE, layer: MoE, noise: float, generator: torch.Generator) -> None:
    """Adds noise: with top_k=1 to the choice, which decides between copies; else to what copies
    write, as all are chosen. A softmax over m times the experts has gates of an m-th, so the bias
    on the choice is an m-th too, and outputs m times as large unless gates are made to sum to 1.
    """
    config, n_copies = layer.config, grown.n_experts // layer.n_experts
    if config.gate == "softmax":
        grown.selection_bias.div_(n_copies)
        if config.top_k == 1:
            grown.w_out.mul_(n_copies)
    if config.top_k > 1:
        _add_noise(grown.w_out, n_copies, noise, generator)
        return
    mean_gate = 1 / grown.n_experts if config.gate == "softmax" else 0.5
    drawn = torch.randn(grown.n_experts, generator=generator)
    size = noise * _CHOICE_NOISE * mean_gate
    grown.selection_bias.add_((size * drawn).to(grown.selection_bias))


@torch.no_grad()
def late_depth(grown: ProductKeyFFN, x: Tensor) -> float:
    """How far below 0 a bias on new keys' scores has to be, so that x (T, d_model) retrieves none:
    then the best new product key is no better than the worst one that is retrieved.
    """
    assert grown.late is not None
    n_old, (n_first, _) = grown.late.n_old, grown.config.key_sets
    first, second = halves_of(grown.sub_keys, grown.config)
    old = torch.cat([first[..., :n_old, :], second], -2)
    new = torch.cat([first[..., n_old:, :], second], -2)
    queries = grown.queries(x)
    retrieved, _ = product_key_topk(queries, old, grown.top_k, n_first=n_old)
    best, _ = product_key_topk(queries, new, 1, n_first=n_first - n_old)
    return max(0.0, float((best[..., 0] - retrieved[..., -1]).max()))
