"""A model that starts from weights: they are put in, and its new layers are seeded from them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.how import Seeded, Started, find_how
from experiments.models.ffn._base import FFN
from experiments.models.freezing import freeze
from experiments.models.lora import ADAPTERS
from experiments.models.transformer import Transformer, get_block


def start(
    model: Transformer,
    init: Init,
    state: Mapping[str, Tensor],
    bases: Sequence[FFNConfig],
    blocks: Sequence[int],
    batches: Iterator[Tensor],
    seed: int,
) -> Started:
    """Puts weights into the model, in place, seeds the new layers of `blocks` by init.how, and
    freezes what is not trained.

    state: by the names of a Transformer whose blocks hold `bases`, WeightSource.state(). batches:
    (batch, seq) tokens of the training text, for what is measured or distilled. Raises ValueError
    for weights that lack a tensor of the model's or have one of another shape, and for a layer that
    can't be seeded.
    """
    how, generator = find_how(init.how), torch.Generator().manual_seed(seed)
    left = dict(state)
    if model.config.tie_head:
        left["head.weight"] = left["embedding.weight"]
    old = {i: _taken(left, f"blocks.{i}.ffn.") for i in blocks}
    rest = dict(model.state_dict())
    for i in blocks:
        _taken(rest, f"blocks.{i}.ffn.")
    _load(model, left, rest.keys(), "")
    seeded: dict[int, FFN | None] = {}
    for i in blocks:
        ffn, where = get_block(model, i).ffn, f"blocks.{i}.ffn."
        if how.as_it_is:
            _load(ffn, old[i], ffn.state_dict().keys(), where)
            continue
        base: FFN = bases[i].build(model.config.d_model)
        _load(base, old[i], base.state_dict().keys(), where)
        seeded[i] = how.seed(ffn, base, init, generator)
    freeze(model)
    return how.finish(
        Seeded(
            model=model,
            init=init,
            bases=seeded,
            batches=batches,
            generator=generator,
        )
    )


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is under the prefix, without it, and no longer in the state."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}


def _load(
    module: torch.nn.Module, state: Mapping[str, Tensor], names: Iterable[str], where: str
) -> None:
    """Copies the state into the module's tensors of these names; but adapters, which are new."""
    own = module.state_dict()
    wanted = {name for name in names if not name.endswith(ADAPTERS)}
    if wanted != set(state):
        missing, surplus = sorted(wanted - set(state)), sorted(set(state) - wanted)
        which = f"no {where}{missing[0]}" if missing else f"{where}{surplus[0]}, which it has not"
        raise ValueError(
            f"the weights of init don't fit the model: they have {which}; give the layers that the "
            "weights were trained with, or leave trunk.base_ffn out"
        )
    with torch.no_grad():
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise ValueError(
                    f"the weights of init don't fit the model: {where}{name} is "
                    f"{tuple(value.shape)}, and the model's {tuple(own[name].shape)}"
                )
            own[name].copy_(value)
