"""A bare training loop: the model, optimizer and clipping of a run, without Hydra or Lightning.

Untrained routing on random tokens collapses onto few experts, whose rows then stay in the cache:
table time all but vanishes, a false win. So loops that are timed add noise to the inputs of
product-key layers (`spread`), the same in each step, which spreads tokens evenly: the worst case.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.models.blocks import assign_ffns
from experiments.models.ffn.dense import DenseConfig
from experiments.models.fused import Fused
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.optim.adamw import AdamWConfig
from experiments.optim.gradients import clip_gradients
from experiments.optim.groups import build_optimizer
from experiments.training.compiled import compile_trunk
from experiments.training.deterministic import strict_backward

TableGradient = Literal["dense", "rows", "fused"]
Batch = tuple[Tensor, Tensor]  # tokens (B, S) and the next ones, of any shape
# conf/optim/adamw.yaml's; the rate is so small that routing stays as it is while it is timed
_LR = 1e-6
OPTIM = AdamWConfig(
    lr=_LR,
    lr_d_model=1024,
    lr_width_exponent=0.5,
    table_lr=2.0,
    key_lr=0.2,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    grad_clip=1.0,
    schedule="cosine",
    warmup=0.1,
    decay=0.2,
    final_lr=0.1,
)
_N_BATCHES = 4  # of random tokens, in turn
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A loop over a trunk and its batch: n_micro forward passes of `sequences` a step."""

    d_model: int
    d_head: int
    n_layers: int
    vocab_size: int
    seq_len: int
    sequences: int
    n_micro: int = 1
    tie_head: bool = True

    @property
    def step_tokens(self) -> int:
        return self.n_micro * self.sequences * self.seq_len

    def model(self, ffn: FFNConfig, blocks: str | Sequence[int] = "middle") -> TransformerConfig:
        """A trunk with ffn in those blocks, and dense layers in the others."""
        return TransformerConfig(
            d_model=self.d_model,
            d_head=self.d_head,
            vocab_size=self.vocab_size,
            seq_len=self.seq_len,
            tie_head=self.tie_head,
            ffns=assign_ffns(ffn, DenseConfig(), blocks, self.n_layers),
        )

    def batches(self, n_steps: int) -> list[list[Batch]]:
        """Random tokens of that many steps, on torch's default device."""
        shape = (n_steps, self.n_micro, self.sequences, self.seq_len + 1)
        tokens = torch.randint(self.vocab_size, shape)
        return [[(t[:, :-1], t[:, 1:].flatten()) for t in step] for step in tokens]

    def spread(self, model: Transformer) -> None:
        """Adds noise to the inputs of layers of experts: drawing it is no part of a step."""
        noise = torch.randn(self.sequences, self.seq_len, self.d_model)
        for layer in model.ffn_layers():
            if layer.n_experts:
                layer.register_forward_pre_hook(lambda _, x: (x[0] + noise, *x[1:]))


class Loop:
    """A model in training on batches that come again and again, each of some micro-batches.

    execution: set before each step, where loops share a model; else it stays as it is.
    """

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Sequence[Batch]],
        *optimizers: torch.optim.Optimizer,
        grad_clip: float | None,
        autocast: bool = False,
        execution: Execution | None = None,
    ) -> None:
        self.model, self.batches, self.optimizers = model, batches, optimizers
        self.grad_clip, self.autocast, self.execution = grad_clip, autocast, execution
        self.n_done = 0
        self._forward: Callable[[Tensor], Tensor] = model
        self._fused: Fused | None = None

    def compile(self, backend: str = "inductor") -> None:
        """Trunk, at its next step, as trainer.compile=true does."""
        self._forward = compile_trunk(self.model, backend)

    def fuse(self) -> Fused:
        """Fuses the parts that can be on a CPU, as trainer.trunk=auto does; returns the pass."""
        self._fused = Fused(self.model)
        return self._fused

    def step(self) -> Tensor:
        """A whole step: all that training does but reading data and writing down. Its mean loss,
        in nats/token, on the device.
        """
        total = self.backward()
        if self.grad_clip is not None:
            clip_gradients(self.model.parameters(), self.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        for layer in self.model.ffn_layers():
            layer.after_step()
        self.n_done += 1
        return total

    def backward(self) -> Tensor:
        """Step's passes forward and backward; returns as step does, and leaves gradients."""
        if self.execution is not None:
            self.model.set_execution(self.execution)
        batch = self.batches[self.n_done % len(self.batches)]
        total = torch.zeros((), device=batch[0][0].device)
        for tokens, targets in batch:
            with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
                loss = self._loss(tokens, targets)
            total += loss.detach() / len(batch)
            for layer in self.model.ffn_layers():
                auxiliary = layer.auxiliary_loss()
                loss = loss if auxiliary is None else loss + auxiliary
            with strict_backward():
                (loss / len(batch)).backward()
        return total

    def _loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        if self._fused is not None:
            return self._fused.losses(tokens, targets)[0]
        return F.cross_entropy(self._forward(tokens).flatten(0, 1).float(), targets.flatten())

    def state(self) -> dict[str, Any]:
        (optimizer,) = self.optimizers
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "n_done": self.n_done,
        }

    def load(self, state: dict[str, Any]) -> None:
        (optimizer,) = self.optimizers
        self.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.n_done = state["n_done"]


def training_loop(
    config: TransformerConfig,
    sizes: Sizes,
    *,
    device: str,
    kernel: KernelName,
    gradient: TableGradient = "rows",
    state: Literal["float32", "bfloat16"] = "float32",
    lr: float = _LR,
    spread: bool = True,
) -> Loop:
    """Model as a run trains it on that device, under bfloat16 autocast, on random tokens."""
    torch.manual_seed(_SEED)
    with torch.device(device):
        model = config.build()
        batches = sizes.batches(_N_BATCHES)
        if spread:
            sizes.spread(model)
    clip = None if gradient == "fused" else OPTIM.grad_clip
    optim = replace(OPTIM, lr=lr, table_gradient=gradient, table_state=state, grad_clip=clip)
    optimizer = build_optimizer(model, lr, optim, kernel)
    return Loop(model, batches, optimizer, grad_clip=clip, autocast=True)


def at_equal_flops(make: Callable[[int], FFNConfig], sizes: Sizes) -> tuple[FFNConfig, int]:
    """make(d_key), and the even d_key whose model's training FLOPs are nearest dense's.

    Raises ValueError if the layer costs more than dense at the narrowest query, 2.
    """
    dense = sizes.model(DenseConfig()).cost().training_flops

    def flops(d_key: int) -> float:
        return sizes.model(make(d_key)).cost().training_flops

    narrow, wide = flops(2), flops(4)
    if narrow > dense:
        raise ValueError(f"{make(2)} costs {narrow / dense:.3g} of dense at d_key=2; fewer experts")
    d_key = 2 + 2 * round((dense - narrow) / (wide - narrow))  # costs are linear in it
    return make(d_key), d_key
