"""Direct parts of experts in the logit of the next token, exact, for each token.

The logit of token v after position t is m h_v . (g * r_t x_t), for the residual stream x_t after
the last block, the final norm's weights g and its scale r_t = (mean(x_t^2) + eps)^-1/2, the head's
row h_v and a multiplier m. With r_t as it is, that is linear in x_t, which is a sum. So each slot's
part of the logit is its own output times u_t = m r_t g * h_v, and all parts add up to the logit.
The effect of a slot's output on later blocks is part of theirs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.inspection.interface import Inspected, final_norm, find_device, seen
from experiments.models.ffn._slots import Slots
from experiments.models.tokens import Tokens
from experiments.models.transformer import Transformer

_NUMBERS = 2**24  # of slots' outputs that are held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Contributions:
    """Parts of one layer's J slots at T positions in the logits of targets (T,), in float64.

    logits (T,): the whole. layer (T,): the part of what the layer writes. slots: what was read.
    of_slots (T, J): each slot's part. beside (T,): of what the layer writes that is of no slot.
    """

    layer_name: str
    targets: Tensor
    logits: Tensor
    layer: Tensor
    slots: Slots
    of_slots: Tensor
    beside: Tensor


@torch.no_grad()
def contributions(
    model: Transformer, layers: list[Inspected], ids: Tensor, targets: Tensor | None = None
) -> list[Contributions]:
    """Those of each layer; the model is in evaluation mode.

    ids: (T,) of one text, at most as long as the model reads. targets: (T,), by default the next
    ids, and at the end the likeliest. Raises ValueError for a residual path that norms outputs.
    """
    residual = model.config.residual
    if not residual.adds_outputs:
        raise ValueError(
            f"{type(residual).__name__} norms what a layer writes: what an expert adds to a logit "
            "is known where it is added as it is (residual=pre_norm or parallel)"
        )
    heard: dict[str, tuple[Tensor, Tokens | None, Tensor]] = {}
    stream: list[Tensor] = []

    def hear(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            heard[name] = *seen(inputs), output.flatten(0, -2)

        return hook

    handles = [layer.module.register_forward_hook(hear(layer.name)) for layer in layers]
    handles.append(model.norm.register_forward_pre_hook(lambda m, inputs: stream.append(inputs[0])))
    device = find_device(model)
    try:
        with torch.autocast(device.type, enabled=False):
            logits = model(ids.to(device).unsqueeze(0))[0]
    finally:
        for handle in handles:
            handle.remove()
    if targets is None:
        targets = torch.cat([ids[1:].to(device), logits[-1:].argmax(-1)])
    towards = directions(model, stream[0][0], targets.to(device))
    found = []
    for layer in layers:
        x, tokens, y = heard[layer.name]
        slots, beside = layer.layer.slots(x, tokens), layer.layer.beside(x, tokens)
        # a slot's output is as wide as the model: a few tokens at a time
        parts: list[Tensor] = []
        step = max(1, _NUMBERS // (slots.experts.shape[1] * x.shape[1]))
        for start in range(0, len(x), step):
            at = slice(start, start + step)
            few = Slots(experts=slots.experts[at], gates=slots.gates[at], weights=slots.weights[at])
            written = layer.layer.written(x[at], few).double()
            parts.append((written * towards[at].unsqueeze(1)).sum(-1))
        of_layer = layer.multiplier * (y.double() * towards).sum(-1)
        rest = torch.zeros_like(of_layer)
        if beside is not None:
            rest = layer.multiplier * (beside.double() * towards).sum(-1)
        found.append(
            Contributions(
                layer_name=layer.name,
                targets=targets,
                logits=logits.gather(1, targets.unsqueeze(1))[:, 0].double(),
                layer=of_layer,
                slots=slots,
                of_slots=layer.multiplier * torch.cat(parts),
                beside=rest,
            )
        )
    return found


def directions(model: Transformer, x: Tensor, targets: Tensor) -> Tensor:
    """u (T, d_model) float64 for the stream x (T, d_model) after the last block, and (T,) targets:
    x . u is the targets' logit.
    """
    norm = final_norm(model)
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    scale = (x.double().square().mean(-1, keepdim=True) + eps).rsqrt()
    rows = model.head.weight[targets].double() * norm.weight.double()
    return model.multiplier * scale * rows
