"""The LightningModule: loss, parameter groups, schedule."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from experiments.budget.plan import Plan
from experiments.config.schema import KernelName, Optim
from experiments.data.batches import Batch
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.transformer import Transformer
from experiments.training.optimizer import RowAdamW, clip_gradients, keep_coalesced
from experiments.training.schedule import lr_factor

DIVERGED_LOSS = 2.0  # times log(vocab_size), the loss of a model that knows nothing


class LanguageModel(pl.LightningModule):
    """Next-token training of a Transformer under a plan, a step's batch in n_micro parts.

    kernel and optim.table_gradient say how the layers' tables are read and what their gradients
    become: the model's execution, which configure_optimizers sets.
    """

    def __init__(
        self,
        model: Transformer,
        plan: Plan,
        optim: Optim,
        *,
        kernel: KernelName = "auto",
        n_micro: int = 1,
    ) -> None:
        super().__init__()
        self.model, self.plan, self.optim, self.kernel = model, plan, optim, kernel
        self.n_micro, self._n_seen = n_micro, 0
        self.register_buffer("step_losses", torch.full((plan.n_steps,), math.nan))
        self.step_losses: Tensor

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the batch in nats/token, plus what layers add to it."""
        logits = self.model(batch.inputs)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten())
        self._note(self._over_ranks(loss.detach()))
        for layer in self.model.ffn_layers():
            auxiliary = layer.auxiliary_loss()
            if auxiliary is not None:
                loss = loss + auxiliary
        return loss

    def _note(self, loss: Tensor) -> None:
        """Adds a part's loss to its step's mean."""
        before = self.step_losses[self.global_step] if self._n_seen else 0.0
        self.step_losses[self.global_step] = before + loss / self.n_micro
        self._n_seen = (self._n_seen + 1) % self.n_micro

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """The mean over ranks, each of which has the same number of tokens."""
        if torch.distributed.is_initialized():
            loss = loss / torch.distributed.get_world_size()
            torch.distributed.all_reduce(loss)
        return loss

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clips the norm of all gradients together. Ours, for Lightning's own refuses fused AdamW
        under mixed precision, on account of a loss scaler that bfloat16 does not have.
        """
        if self.optim.grad_clip is not None:
            clip_gradients(self.model.parameters(), self.optim.grad_clip)

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        """The step, then the layers' own; here, so that a checkpoint of the step holds both."""
        super().optimizer_step(*arguments, **keywords)
        for layer in self.model.ffn_layers():
            layer.after_step()

    def configure_optimizers(self) -> Any:
        """AdamW over the groups of parameter_groups, all under one schedule."""
        o, how = self.optim, self.optim.table_gradient
        execution = Execution(kernel=self.kernel, gradient="dense" if how == "dense" else "rows")
        optimizer = RowAdamW(
            parameter_groups(self.model, self.plan.lr, o),
            betas=(o.beta1, o.beta2),
            eps=o.eps,
            state_dtype=getattr(torch, o.table_state),
            execution=execution,
        )
        update = optimizer.update if how == "fused" else None
        self.model.set_execution(replace(execution, update=update))
        self._prepare_tables(execution)
        scheduler = LambdaLR(
            optimizer,
            lambda step: lr_factor(
                step,
                self.plan.n_steps,
                kind=o.schedule,
                warmup=o.warmup,
                decay=o.decay,
                final=o.final_lr,
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _prepare_tables(self, execution: Execution) -> None:
        """Puts tables into huge pages, and keeps gradients of rows coalesced."""
        for parameter, role in _roles(self.model):
            if role == "table":
                use_huge_pages(parameter)
                if self.optim.table_gradient == "rows":
                    keep_coalesced(parameter, execution)

    def recent_loss(self, n_steps: int) -> float:
        """Mean training loss up to n_steps, over the last tenth of the planned; nan at 0."""
        done = self.step_losses[:n_steps]
        return float(done[-max(1, self.plan.n_steps // 10) :].double().mean())


def parameter_groups(model: nn.Module, lr: float, optim: Optim) -> list[dict[str, Any]]:
    """AdamW's groups: matrices of the backbone decay, its vectors don't, and neither do tables
    and keys, which have learning rates of their own (FFN.param_roles says which they are).
    """
    by_rows = None if optim.table_gradient == "dense" else optim.table_gradient
    groups: Mapping[str, dict[str, Any]] = {
        "backbone": {"lr": lr, "weight_decay": optim.weight_decay},
        "vectors": {"lr": lr, "weight_decay": 0.0},
        "table": {"lr": lr * optim.table_lr, "weight_decay": 0.0, "rows": by_rows},
        "key": {"lr": lr * optim.key_lr, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for parameter, role in _roles(model):
        members[role].append(parameter)
    return [{"name": n, "params": members[n], **g} for n, g in groups.items() if members[n]]


def _roles(model: nn.Module) -> list[tuple[nn.Parameter, str]]:
    special: dict[nn.Parameter, str] = {}
    for module in model.modules():
        named = dict(module.named_parameters())
        for name, role in getattr(module, "param_roles", {}).items():
            if name in named:  # a gate's table is there only with gated experts
                special[named[name]] = role
    return [
        (p, special.get(p, "backbone" if p.dim() >= 2 else "vectors")) for p in model.parameters()
    ]
