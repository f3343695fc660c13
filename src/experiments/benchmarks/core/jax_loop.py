"""Same training step in JAX, compiled whole: a rival of the loop on a CPU, in float32.

Embedding, RMS norm, rotary positions, causal attention and GELU as models/transformer.py has them,
on the same weights; the norm of gradients clipped, AdamW.
"""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.core.loop import Batch, Sizes
from experiments.config.optim import Optim
from experiments.models.ffn.dense import DenseConfig
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.system.version import install

JAX = "jax float32"
# read when jax begins: one thread, as all contenders have
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def why_not_jax(config: TransformerConfig, sizes: Sizes) -> str | None:
    """Why it does not take part, as a line; None if it can."""
    plain = sizes.model(DenseConfig())
    if config != plain or config.tie_head or sizes.n_micro > 1:
        return f"{JAX} is left out: it is written for a dense model with a head of its own"
    try:
        import_module("jax")
    except ImportError as error:
        return f"{JAX} is left out ({error}): {install('bench')}"
    return None


class JaxLoop:
    """A model's weights, copied, in training on batches that come again and again."""

    def __init__(self, model: Transformer, batches: Sequence[Batch], lr: float, o: Optim) -> None:
        os.environ.update(_ENVIRONMENT)
        import jax
        from jax import numpy as jnp

        self._block_until_ready = jax.block_until_ready
        config = model.config
        angles = RoPE().angles(torch.arange(config.seq_len), config.d_head).numpy()
        cos, sin = jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles))
        seen = np.tril(np.ones((config.seq_len, config.seq_len), bool))

        def norm(x: Any, weight: Any) -> Any:
            eps = torch.finfo(torch.float32).eps
            return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight

        def rotate(x: Any) -> Any:
            left, right = jnp.split(x, 2, -1)
            return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], -1)

        def attend(p: Mapping[str, Any], block: str, x: Any) -> Any:
            heads = (x @ p[f"{block}.attention.qkv.weight"].T).reshape(
                *x.shape[:2], 3, config.n_heads, config.d_head
            )
            query, key, value = heads.transpose(2, 0, 3, 1, 4)
            scores = jnp.einsum("bhqd,bhkd->bhqk", rotate(query), rotate(key))
            scores = jnp.where(seen, scores * config.d_head**-0.5, -jnp.inf)
            y = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), value)
            y = y.transpose(0, 2, 1, 3).reshape(x.shape)
            return y @ p[f"{block}.attention.out.weight"].T

        def loss(p: Mapping[str, Any], tokens: Any, targets: Any) -> Any:
            x = p["embedding.weight"][tokens]
            for i in range(len(config.ffns)):
                block = f"blocks.{i}"
                x = x + attend(p, block, norm(x, p[f"{block}.attention_norm.weight"]))
                hidden = norm(x, p[f"{block}.ffn_norm.weight"]) @ p[f"{block}.ffn.w_in.weight"].T
                hidden = jax.nn.gelu(hidden, approximate=False)
                x = x + hidden @ p[f"{block}.ffn.w_out.weight"].T
            logits = norm(x, p["norm.weight"]) @ p["head.weight"].T
            chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
            return (jax.nn.logsumexp(logits, -1) - chosen).mean()

        def step(p: Any, moments: Any, n: Any, tokens: Any, targets: Any) -> Any:
            value, g = jax.value_and_grad(loss)(p, tokens, targets)
            if o.grad_clip is not None:
                length = jnp.sqrt(sum((x * x).sum() for x in jax.tree.leaves(g)))
                g = jax.tree.map(lambda x: x * jnp.minimum(1, o.grad_clip / (length + 1e-6)), g)
            first = jax.tree.map(lambda m, x: o.beta1 * m + (1 - o.beta1) * x, moments[0], g)
            second = jax.tree.map(lambda v, x: o.beta2 * v + (1 - o.beta2) * x * x, moments[1], g)

            def moved(x: Any, m: Any, v: Any) -> Any:
                root = jnp.sqrt(v / (1 - o.beta2**n)) + o.eps
                return x * (1 - lr * o.weight_decay) - lr * m / (1 - o.beta1**n) / root

            return jax.tree.map(moved, p, first, second), (first, second), n + 1, value

        self._step = jax.jit(step, donate_argnums=(0, 1, 2))
        self._gradient = jax.jit(jax.value_and_grad(loss))
        self._weights = {n: jnp.array(w.detach().numpy()) for n, w in model.named_parameters()}
        zeros = [jax.tree.map(jnp.zeros_like, self._weights) for _ in range(2)]
        self._state = (self._weights, tuple(zeros), jnp.ones(()))
        self._batches = [
            (jnp.asarray(tokens.numpy()), jnp.asarray(targets.numpy().reshape(tokens.shape)))
            for tokens, targets in batches
        ]
        self._n_done = 0

    def step(self) -> None:
        """A whole step, waited for."""
        batch = self._batches[self._n_done % len(self._batches)]
        *self._state, _ = self._step(*self._state, *batch)
        self._block_until_ready(self._state)
        self._n_done += 1

    def passed(self) -> tuple[float, dict[str, Tensor]]:
        """Loss of the first batch, and its gradients by their names in the model."""
        loss, gradients = self._gradient(self._state[0], *self._batches[0])
        return float(loss), {n: torch.tensor(np.asarray(g)) for n, g in gradients.items()}
