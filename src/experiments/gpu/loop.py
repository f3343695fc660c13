"""A bare training loop: the model, optimizer and clipping of a run, without Hydra or Lightning."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.optim import Optim
from experiments.gpu.job import Job
from experiments.models.ffn._product_keys import ProductKeyFFN
from experiments.models.ffn.dense import DenseConfig
from experiments.models.transformer import TransformerConfig, assign_ffns
from experiments.optim.groups import build_optimizer
from experiments.optim.optimizer import clip_gradients
from experiments.training.compiled import compile_trunk

TableGradient = Literal["dense", "rows", "fused"]
# conf/optim/adamw.yaml's; the rate is so small that routing stays as it is while it is timed
_LR = 1e-6
OPTIM = Optim(
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
    """Of a trunk and its batch: n_micro forward passes of `sequences` a step."""

    d_model: int
    d_head: int
    n_layers: int
    vocab_size: int
    seq_len: int
    sequences: int
    n_micro: int = 1

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return self.n_micro * self.sequences * self.seq_len

    def model(self, ffn: FFNConfig, blocks: str | Sequence[int] = "middle") -> TransformerConfig:
        """A trunk with ffn in those blocks, and dense layers in the others; tied head."""
        return TransformerConfig(
            d_model=self.d_model,
            d_head=self.d_head,
            vocab_size=self.vocab_size,
            seq_len=self.seq_len,
            tie_head=True,
            ffns=assign_ffns(ffn, DenseConfig(), blocks, self.n_layers),
        )


class Loop:
    """A model in training on random tokens, under bfloat16 autocast.

    Untrained routing collapses onto few experts, whose rows then stay in the cache, a false win:
    `spread` adds noise to product-key layers' inputs, the same in each step, as `bench step` does.
    """

    def __init__(
        self,
        config: TransformerConfig,
        sizes: Sizes,
        job: Job,
        *,
        gradient: TableGradient = "rows",
        state: Literal["float32", "bfloat16"] = "float32",
        lr: float = _LR,
        spread: bool = True,
    ) -> None:
        torch.manual_seed(_SEED)
        self.sizes, self.device, self.n_done = sizes, job.device, 0
        with torch.device(job.device):
            self.model = config.build()
            shape = (_N_BATCHES, sizes.n_micro, sizes.sequences, sizes.seq_len + 1)
            self._tokens = torch.randint(config.vocab_size, shape)
            noise = torch.randn(sizes.sequences, sizes.seq_len, sizes.d_model)
        clip = None if gradient == "fused" else OPTIM.grad_clip
        self.optim = replace(
            OPTIM, lr=lr, table_gradient=gradient, table_state=state, grad_clip=clip
        )
        self.optimizer = build_optimizer(self.model, lr, self.optim, job.kernel)
        self._forward: Callable[[Tensor], Tensor] = self.model
        for layer in self.model.ffn_layers():
            if spread and isinstance(layer, ProductKeyFFN):
                layer.register_forward_pre_hook(lambda _, x: (x[0] + noise,))

    def compile(self, backend: str) -> None:
        """The trunk, at its next step, as trainer.compile=true does."""
        self._forward = compile_trunk(self.model, backend)

    def step(self) -> Tensor:
        """A whole step; its mean loss, in nats/token, on the device."""
        total = torch.zeros((), device=self.device)
        for tokens in self._tokens[self.n_done % _N_BATCHES]:
            with torch.autocast(self.device, dtype=torch.bfloat16):
                logits = self._forward(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
            (loss / self.sizes.n_micro).backward()
            total += loss.detach() / self.sizes.n_micro
        if self.optim.grad_clip is not None:
            clip_gradients(self.model.parameters(), self.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for layer in self.model.ffn_layers():
            layer.after_step()
        self.n_done += 1
        return total

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "n_done": self.n_done,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.n_done = state["n_done"]


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


def release(job: Job) -> None:
    """Gives back what the last model held, before the next is made."""
    gc.collect()
    if job.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
