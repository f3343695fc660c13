"""A model that starts from weights: they are put in, and its new layers are seeded from them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.distil import Distilled, distil
from experiments.init.freeze import freeze
from experiments.init.growth import can_grow, grow_into, late_depth
from experiments.init.neurons import neurons_of, seed_copies, seed_replace
from experiments.init.upcycle import upcycle
from experiments.models.ffn._base import FFN
from experiments.models.ffn._product_keys import ProductKeyFFN
from experiments.models.ffn.beside import Beside
from experiments.models.ffn.dense import Dense
from experiments.models.ffn.moe import MoE
from experiments.models.ffn.peer import PEER
from experiments.models.transformer import Block, Transformer, document_mask

_DISTIL_BATCH = 256  # tokens of a step: many steps of few tokens were better than few of many
_AT_ONCE = 1024  # tokens of a teacher's forward pass


@dataclass(frozen=True, kw_only=True)
class Started:
    """What a start cost and came to. flops: of distillation, the base model's share included.

    exact: whether the model with layers beside gives the logits of the one without, to the bit, on
    a batch of the text; None where none is beside. distilled: of each block whose layer was
    replaced. late: of each block whose layer has keys that are not let in yet, how far down a bias
    keeps them (init/growth.py).
    """

    flops: float = 0.0
    exact: bool | None = None
    distilled: Mapping[int, Distilled] = field(default_factory=dict)
    late: Mapping[int, float] = field(default_factory=dict)


def start(
    model: Transformer,
    init: Init,
    state: Mapping[str, Tensor],
    bases: Sequence[FFNConfig],
    blocks: Sequence[int],
    batches: Iterator[Tensor],
    seed: int,
    progress: Callable[[str], object] = lambda text: None,
) -> Started:
    """Puts weights into the model, in place, seeds the new layers of `blocks` by init.how, and
    freezes what is not trained.

    state: by the names of a Transformer whose blocks hold `bases`, WeightSource.state(). batches:
    (batch, seq) tokens of the training text, for distillation. Raises ValueError for weights that
    lack a tensor of the model's or have one of another shape, and for a layer that can't be seeded.
    """
    generator = torch.Generator().manual_seed(seed)
    left = dict(state)
    if model.config.tie_head:
        left["head.weight"] = left["embedding.weight"]
    old = {i: _taken(left, f"blocks.{i}.ffn.") for i in blocks}
    rest = dict(model.state_dict())
    for i in blocks:
        _taken(rest, f"blocks.{i}.ffn.")
    _load(model, left, rest.keys(), "")
    replaced: dict[int, FFN] = {}
    for i in blocks:
        block = model.blocks[i]
        assert isinstance(block, Block)
        where = f"blocks.{i}.ffn."
        if init.how == "keep":
            _load(block.ffn, old[i], block.ffn.state_dict().keys(), where)
            continue
        base: FFN = bases[i].build(model.config.d_model)
        _load(base, old[i], base.state_dict().keys(), where)
        if can_grow(bases[i]) and init.how in ("bias", "copies"):
            grow_into(block.ffn, base, how=init.how, noise=init.noise, generator=generator)
        elif isinstance(block.ffn, Beside):
            block.ffn.ffn = base
            _seed_beside(block.ffn.layer, base, init, generator)
        else:
            _seed_instead(block.ffn, base, init, generator)
            replaced[i] = base
    freeze(model)
    if init.how == "replace" and init.distil_tokens:
        return _distilled(model, replaced, init, batches, generator, progress)
    if init.how == "bias":
        return Started(late=_depths(model, blocks, next(batches)))
    chosen = [model.blocks[i] for i in blocks]
    if all(isinstance(block, Block) and isinstance(block.ffn, Beside) for block in chosen):
        return Started(exact=_is_exact(model, blocks, next(batches)[:1]))
    return Started()


def _taken(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is under the prefix, without it, and no longer in the state."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state.pop(name) for name in names}


def _load(
    module: torch.nn.Module, state: Mapping[str, Tensor], names: Iterable[str], where: str
) -> None:
    """Copies the state into the module's tensors of these names; but adapters, which are new."""
    own = module.state_dict()
    wanted = {name for name in names if not name.endswith(("lora_a", "lora_b"))}
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


def _seed_beside(layer: FFN, base: FFN, init: Init, generator: torch.Generator) -> None:
    """Its outputs are zero, so the function is the base's to the bit."""
    if init.how == "copies":
        assert isinstance(layer, PEER)
        assert isinstance(base, Dense)  # init/place.py has checked both
        seed_copies(layer, neurons_of(base), noise=init.noise, generator=generator)
    with torch.no_grad():
        for weight in layer.output_weights():
            weight.zero_()


def _seed_instead(layer: FFN, base: FFN, init: Init, generator: torch.Generator) -> None:
    """The layer instead of the base gets its neurons."""
    assert isinstance(base, Dense)
    if isinstance(layer, MoE):
        upcycle(layer, base, reinit=init.reinit, generator=generator)
    else:
        assert isinstance(layer, PEER)
        seed_replace(layer, neurons_of(base), generator=generator)


def _distilled(
    model: Transformer,
    teachers: Mapping[int, FFN],
    init: Init,
    batches: Iterator[Tensor],
    generator: torch.Generator,
    progress: Callable[[str], object],
) -> Started:
    """Each replaced layer, first block first, learns what its teacher makes of the same inputs."""
    tokens = _some(batches, init.distil_tokens)
    config, results, flops = model.config, {}, 0.0
    n_tokens = sum(batch.numel() for batch in tokens)
    for i, teacher in teachers.items():
        block = model.blocks[i]
        assert isinstance(block, Block)
        inputs = torch.cat([_inputs(model, batch, i) for batch in tokens])
        with torch.no_grad():
            targets = torch.cat([teacher(part) for part in inputs.split(_AT_ONCE)])
        results[i] = distil(
            block.ffn,
            inputs,
            targets,
            cost=config.ffns[i].cost(config.d_model),
            lr=init.distil_lr,
            n_steps=max(1, len(inputs) // _DISTIL_BATCH),
            batch_tokens=_DISTIL_BATCH,
            generator=generator,
            progress=partial(_of_block, progress, i),
        )
        below = replace(config, ffns=config.ffns[: i + 1], trained_blocks=None, lora_rank=None)
        head = 2 * config.d_model * config.vocab_size
        flops += n_tokens * (below.cost().forward_flops - head) + results[i].flops
    return Started(flops=flops, distilled=results)


def _of_block(
    progress: Callable[[str], object], i: int, step: int, n_steps: int, error: float
) -> None:
    progress(f"distilling block {i}: step {step}/{n_steps}, error {error:.3f}")


@torch.no_grad()
def _is_exact(model: Transformer, blocks: Sequence[int], tokens: Tensor) -> bool:
    """Whether the layers beside those of `blocks` leave (batch, seq) tokens their logits."""
    was_training = model.training
    model.eval()
    chosen = [block for i, block in enumerate(model.blocks) if i in blocks]
    pairs = [(block, block.ffn) for block in chosen if isinstance(block, Block)]
    with_layers = model(tokens)
    try:
        for block, ffn in pairs:
            assert isinstance(ffn, Beside)
            block.ffn = ffn.ffn
        return torch.equal(model(tokens), with_layers)
    finally:
        for block, ffn in pairs:
            block.ffn = ffn
        model.train(was_training)


def _depths(model: Transformer, blocks: Sequence[int], tokens: Tensor) -> dict[int, float]:
    """Measured on (batch, seq) tokens of the training text."""
    depths, was_training = {}, model.training
    model.eval()
    for i in blocks:
        block = model.blocks[i]
        assert isinstance(block, Block)
        assert isinstance(block.ffn, ProductKeyFFN)
        depths[i] = late_depth(block.ffn, _inputs(model, tokens, i))
    model.train(was_training)
    return depths


def _some(batches: Iterator[Tensor], n_tokens: int) -> list[Tensor]:
    """The first batches, of n_tokens or a little more."""
    kept: list[Tensor] = []
    while sum(batch.numel() for batch in kept) < n_tokens:
        kept.append(next(batches))
    return kept


@torch.no_grad()
def _inputs(model: Transformer, tokens: Tensor, i: int) -> Tensor:
    """(batch, seq) tokens to the (batch * seq, d_model) inputs of block i's feed-forward layer."""
    end = model.config.document_end
    mask = None if end is None else document_mask(tokens, end)
    x = model.embedding(tokens)
    for block in model.blocks[:i]:
        x = block(x, mask)
    block = model.blocks[i]
    assert isinstance(block, Block)
    x = x + block.attention(block.attention_norm(x), mask)
    return block.ffn_norm(x).flatten(0, 1)
