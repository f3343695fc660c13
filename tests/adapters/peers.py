"""Small PEER adapters in tiny models, and a PEER written out in float64."""

import torch
from torch.nn import functional as F

from experiments import adapters

SMALL = {"n_experts": 16, "n_heads": 2, "top_k": 4, "d_key": 8}
ACTIVATIONS = {
    "gelu": lambda h: h * 0.5 * (1 + torch.erf(h / 2**0.5)),
    "relu": lambda h: h.clamp(min=0),
    "silu": lambda h: h * torch.sigmoid(h),
    "identity": lambda h: h,
}
SCORES = {
    "softmax": lambda s: s.exp() / s.exp().sum(),
    "sigmoid": torch.sigmoid,
    "relu": lambda s: s.clamp(min=0),
}


def peer_layers(model):
    """Layers of a model that hold adapters, in order."""
    return [module for module in model.modules() if isinstance(module, adapters.PeerLayer)]


def tensors(layer, adapter="default"):
    """An adapter's tensors by their names in the layer; those that it has not are missing."""
    held = ((name, layer.get_submodule(name)) for name in layer.adapter_layer_names)
    return {name: values[adapter] for name, values in held if adapter in values}


def wake(model, adapter="default", seed=0):
    """Gives an adapter random numbers everywhere, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in peer_layers(model):
            for tensor in tensors(layer, adapter).values():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(0.5 * drawn)
    return model


def slow_peer(x, held, config):
    """(d_model,) to the same: every key scored, the best taken, expert after expert summed."""
    y = torch.zeros_like(x)
    queries = (held["peer_query"] @ x).view(config.n_heads, config.d_key)
    for head, query in enumerate(queries):
        if config.query_norm == "layer":
            query = F.layer_norm(
                query, query.shape, held["peer_norm_weight"], held["peer_norm_bias"]
            )
        keys = held["peer_sub_keys"] if config.share_keys else held["peer_sub_keys"][head]
        half = config.d_key // 2
        n_keys = keys.shape[1]
        scores = torch.stack(
            [
                keys[0, e // n_keys] @ query[:half] + keys[1, e % n_keys] @ query[half:]
                for e in range(config.n_experts)
            ]
        )
        best = scores.topk(config.top_k).indices
        gates = SCORES[config.score](scores[best])
        activation = ACTIVATIONS[config.activation]
        for gate, expert in zip(gates, best):
            hidden = held["peer_w_down"][expert] @ x
            if config.glu:
                hidden = activation(held["peer_w_gate"][expert] @ x) * hidden
            else:
                hidden = activation(hidden)
            y = y + gate * hidden * held["peer_w_up"][expert]
    return y
