"""A model's pass from tokens to losses by the fused operators of a CPU (kernels/trunk.py).

Modules, parameters and checkpoints are the model's own: what is fused is how a half of a block, or
the head, is computed. What has no fused form runs as it is written, and is named with the reason.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.kernels.trunk import find_eps, head_losses, why_not_linear, why_not_weights
from experiments.kernels.trunk_passes import MOST_D_HEAD, UNIT, load_trunk
from experiments.models.documents import first_seen
from experiments.models.ffn._base import beside_input
from experiments.models.norms.rms import RMSNorm
from experiments.models.positions.positions import Seen
from experiments.models.residuals.residual import Block
from experiments.models.transformer import Transformer, TransformerConfig

HEAD = "head"


class Fused:
    """A model, with the halves of its blocks and its head fused where they can be.

    eager: why a part is not, by its name: `attention 0`, `ffn 0` (of block 0), `head`. It is found
    out once: who puts a hook on the model, or another layer into it, makes another of these.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.eager = eager_parts(model)
        self._called = [is_hooked(block) for block in model.blocks]
        self._turns: dict[int, tuple[Tensor, Tensor]] = {}  # of the last length

    def look_again(self) -> None:
        """Names what has become eager since: where ranks talk, some layers are."""
        self.eager |= eager_parts(self.model)

    def describe(self) -> str:
        """How the trunk is computed, as a record says it."""
        kernel = load_trunk()
        assert kernel is not None
        whys: dict[str, list[str]] = {}
        for part, why in self.eager.items():
            whys.setdefault(why, []).append(part)
        parts = "; ".join(f"{', '.join(names)} eager: {why}" for why, names in whys.items())
        return f"fused {kernel.level}" + (f" ({parts})" if parts else "")

    def losses(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of (batch, seq) targets, and each one, (T,), without a gradient.

        Targets of -100 count nowhere, and have a loss of 0.
        """
        model, flat = self.model, targets.flatten()
        if HEAD not in self.eager:
            norm = _known(model.norm)
            weights, numbers = (norm.weight, model.head.weight), (find_eps(norm), model.multiplier)
            return head_losses(self._hidden(tokens), *weights, flat, *numbers)
        logits = self.logits(tokens).flatten(0, 1).float()
        each = F.cross_entropy(logits.detach(), flat, reduction="none")
        return F.cross_entropy(logits, flat), each

    def logits(self, tokens: Tensor) -> Tensor:
        """(batch, seq) to (batch, seq, vocab_size), as the model itself."""
        if is_hooked(self.model):
            logits: Tensor = self.model(tokens)
            return logits
        return self.model.logits(self._hidden(tokens))

    def _hidden(self, tokens: Tensor) -> Tensor:
        """(batch, seq, d_model), after the last block."""
        model, seq, end = self.model, tokens.shape[1], self.model.config.document_end
        first = None if end is None else first_seen(tokens, end)
        if seq not in self._turns:
            with torch.inference_mode(False):  # a backward pass may read them later
                self._turns = {seq: _turns(model.config, seq)}
        seen: Seen | None = None
        handed = model.handed(tokens)
        x = model.embedding(tokens)
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            if self._called[i]:
                x = block(x, seen := seen or model.seen(tokens), None, handed)
                continue
            path, times = block.residual, block.multiplier
            if f"attention {i}" in self.eager:
                attended = path.attention_half(block, x, seen := seen or model.seen(tokens), None)
            else:
                norm, turns = _norms(block)[0], self._turns[seq]
                attended = block.attention.fused_half(x, norm, turns, first, times)
            if f"ffn {i}" in self.eager:
                x = path.ffn_half(block, x, attended, handed)
            else:
                rest = beside_input(block.ffn, handed)
                x = block.ffn.fused_half(attended, _norms(block)[1], times, *rest)
        return x


def eager_parts(model: Transformer) -> dict[str, str]:
    """Parts of a model that have no fused form, and why; it may be on the meta device."""
    return dict(_eager(model))


def why_not_fused() -> str | None:
    """Why nothing can be fused on this machine's CPU, in words; None if it can."""
    return "the C++ kernels can't be built here" if load_trunk() is None else None


def _turns(config: TransformerConfig, seq: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (seq, d_head / 2); of no angle where nothing turns."""
    angles = config.positions.angles(torch.arange(seq), config.d_head)
    if angles is None:
        angles = torch.zeros(seq, config.d_head // 2)
    return angles.cos(), angles.sin()


def _eager(model: Transformer) -> Iterator[tuple[str, str]]:
    """Each part that has no fused form here, and why."""
    d_model, d_head = model.config.d_model, model.config.d_head
    called = is_hooked(model)
    width = f"d_model={d_model} is no multiple of {UNIT}" if d_model % UNIT else None
    positions, heads = model.config.positions, None
    if positions.bias(1, 1, 1, torch.device("cpu")) is not None:
        heads = f"{type(positions).__name__} adds to scores"
    elif d_head % UNIT or d_head > MOST_D_HEAD:
        heads = f"d_head={d_head} is no multiple of {UNIT} up to {MOST_D_HEAD}"
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        whole = called or is_hooked(block)
        path = width or block.residual.why_not_fused()
        if path is not None:
            yield from ((f"attention {i}", path), (f"ffn {i}", path))
            continue
        attention_norm, ffn_norm = _norms(block)
        why = heads or _why_not_norm(attention_norm) or block.attention.why_not_fused()
        why = why or _hooked(whole, attention_norm, block.attention)
        if why is not None:
            yield f"attention {i}", why
        why = _why_not_norm(ffn_norm) or block.ffn.why_not_fused()
        why = why or _hooked(whole, ffn_norm, block.ffn)
        if why is not None:
            yield f"ffn {i}", why
    why = width or _why_not_norm(model.norm) or why_not_linear(model.head)
    why = why or _hooked(called, model.norm, model.head)
    if why is not None:
        yield HEAD, why


def _why_not_norm(norm: nn.Module) -> str | None:
    if type(norm) is not RMSNorm:
        return f"{type(norm).__name__} is not RMSNorm"
    return why_not_weights(_known(norm).weight)


def _norms(block: Block) -> tuple[Any, Any]:
    """Norms of attention's half and of the layer's, of a form that has fused halves."""
    assert block.residual.fused_norms is not None
    attention, ffn = map(block.norm, block.residual.fused_norms)
    return attention, ffn


def _known(norm: nn.Module) -> RMSNorm:
    assert isinstance(norm, RMSNorm)
    return norm


def _hooked(called: bool, *modules: nn.Module) -> str | None:
    """called: whether what they are in is hooked."""
    hooked = called or any(is_hooked(part) for m in modules for part in m.modules())
    return "a hook wants to be called" if hooked else None


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook wants to be called with it."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, kind) for kind in kinds)
