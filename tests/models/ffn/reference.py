"""Holds a layer to a slow, obvious form of itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.kernels.ops import Execution
from experiments.models.documents import seen_before
from experiments.models.tokens import Tokens


def assert_same(layer: nn.Module, naive: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Outputs, input gradients and all parameter gradients agree, in float64, to rounding."""
    results = []
    for forward in (layer, naive):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = forward(leaf)
        y.square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        assert len(gradients) == len(list(layer.parameters()))
        results.append([y.detach(), leaf.grad, *gradients])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)


def assert_as_by_reference(layer: nn.Module, how: Execution, *given: Any) -> None:
    """layer(*given) and all parameter gradients are those of kernel=reference, to the rounding of
    float32, of bfloat16 where a table has it: rows are read as they are, and summed in float32.
    """
    found = []
    for execution in (Execution(kernel="reference"), how):
        layer.zero_grad()
        layer.execution = execution
        y = layer(*given)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.to_dense().clone() for p in layer.parameters())])
    for reference, fast in zip(*found, strict=True):
        rounding = 2e-2 if fast.dtype == torch.bfloat16 else 1e-4
        size = float(reference.abs().max())
        torch.testing.assert_close(fast, reference, rtol=rounding, atol=rounding * size)


def tokens_of(ids, end=None):
    """(batch, seq) ids as a trunk hands them to a layer; end: the id that ends a document."""
    return Tokens(ids, seen_before(ids, end))


def with_tokens(layer):
    """The layer, which is handed some tokens where it looks at them and is called as layer(x)."""

    def some(_, args):
        shape = args[0].shape[:2]
        return args[0], tokens_of((7 * torch.arange(shape.numel()) % 11).view(shape))

    if layer.reads_tokens:
        layer.register_forward_pre_hook(some)
    return layer


def normed(queries, kind, norm):
    """(T, H, d_key) queries normalised in training as `kind` says, with norm's weight and bias."""
    if kind == "none":
        return queries
    if kind == "layer":  # each head of each token by itself, one set of weights for all heads
        centred = queries - queries.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * norm.weight + norm.bias
    centred = queries - queries.mean(0)  # over the tokens, each feature of each head by itself
    scaled = centred / (centred.square().mean(0) + 1e-5).sqrt()
    shape = queries.shape[1:]
    return scaled * norm.weight.view(shape) + norm.bias.view(shape)


def with_random_norm(layer):
    """The layer, with weights and biases of its query norm that can't be overlooked."""
    for parameter in layer.query_norm.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return layer


def retrieved(layer, tokens):
    """Of each of (T, d_model) tokens its gates and the rows of its experts, for all heads one after
    the other: by a scan over all pairs of sub-keys.
    """
    config, n_heads = layer.config, layer.n_heads
    n_first, n_second = config.key_sets
    if config.query_rank is None:
        queries = tokens @ layer.query.weight.t()
    else:
        queries = tokens @ layer.query.down.weight.t() @ layer.query.up.weight.t()
    queries = queries.view(len(tokens), n_heads, -1)
    queries = normed(queries, config.query_norm, layer.query_norm.norm)
    for of_token in queries:
        found = []
        for h in range(n_heads):
            keys = layer.sub_keys if config.share_keys else layer.sub_keys[h]
            keys = keys.reshape(n_first + n_second, -1)
            q1, q2 = of_token[h].chunk(2)
            pairs = [(i, j) for i in range(n_first) for j in range(n_second)]
            best = torch.stack([q1 @ keys[i] + q2 @ keys[n_first + j] for i, j in pairs])
            best = best.topk(config.top_k)
            for gate, n in zip(layer.score(best.values), best.indices, strict=True):
                i, j = pairs[n]
                row = i if config.n_groups == 1 else i * n_heads + h
                found.append((gate, row * n_second + j))
        yield found


def peer_written_out(layer, x):
    """He 2024, Alg. 1 and Eq. 1-7, one token, head and expert at a time, in the layer's own type,
    with each of the options that PEER has from its rivals.
    """
    config, tokens, out = layer.config, x.reshape(-1, x.shape[-1]), []
    for token, found in zip(tokens, retrieved(layer, tokens), strict=True):
        total = torch.zeros_like(token)
        for gate, row in found:
            unit = layer.w_down[row] @ token
            if config.glu:
                unit = layer.activation(layer.w_gate[row] @ token) * unit
            else:
                unit = layer.activation(unit)
            total = total + gate * unit * layer.w_up[row]
        if config.output_gate:
            opened = layer.output.w_gate.weight @ token
            total = layer.output.w_out.weight @ (total * opened * torch.sigmoid(opened))
        if config.shared_width_factor:
            hidden = layer.mlp.w_in.weight @ token
            if config.glu:
                hidden = layer.activation(layer.mlp.w_gate.weight @ token) * hidden
            else:
                hidden = layer.activation(hidden)
            total = total + layer.mlp.w_out.weight @ hidden
        out.append(total)
    return torch.stack(out).view_as(x)
