"""The LightningModule: loss, optimizer, schedule."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from experiments.budget.plan import Plan
from experiments.config.constraints import KernelName
from experiments.config.optim import Optim
from experiments.data.batches import Batch
from experiments.models.fused import HEAD, Fused
from experiments.models.transformer import Transformer
from experiments.optim.groups import build_optimizer
from experiments.optim.optimizer import clip_gradients
from experiments.optim.schedule import decay_steps, lr_factor, step_of_stage, warmup_steps
from experiments.points.point import TrainingPart
from experiments.training.compiled import compile_trunk
from experiments.training.deterministic import strict_backward

DIVERGED_LOSS = 2.0  # times log(vocab_size), the loss of a model that knows nothing


class LanguageModel(pl.LightningModule):
    """Next-token training of a Transformer under a plan, a step's batch in n_micro parts.

    kernel and optim.table_gradient say how the layers' tables are read and what their gradients
    become: the model's execution, which configure_optimizers sets (groups.py). compiled: training
    steps call the trunk that torch.compile makes (compiled.py). trunk: or the fused one (trunk.py).
    """

    def __init__(
        self,
        model: Transformer,
        plan: Plan,
        optim: Optim,
        *,
        kernel: KernelName = "auto",
        n_micro: int = 1,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.plan, self.optim, self.kernel = model, plan, optim, kernel
        self.n_micro, self._n_seen = n_micro, 0
        self._compiled = compile_trunk(model) if compiled else None  # a function: no submodule
        self.trunk: Fused | None = None
        self.parts: list[TrainingPart] = []
        self.register_buffer("step_losses", torch.full((plan.n_steps,), math.nan))
        self.step_losses: Tensor

    @property
    def is_compiled(self) -> bool:
        """Whether training calls a compiled trunk."""
        return self._compiled is not None

    def attach(self, part: TrainingPart) -> None:
        """Lets a part take its place in each step, and in checkpoints."""
        self.add_module(part.state_name, part)
        self.parts.append(part)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean loss of the batch in nats/token, plus the layers' own losses."""
        for part in self.parts:
            part.before_step(self.global_step)
        loss, logits = self._loss(batch)
        self._note(self._over_ranks(loss.detach()))
        for part in self.parts:
            loss = loss + part.penalty(self.model, batch.inputs, logits)
        for layer in self.model.ffn_layers():
            auxiliary = layer.auxiliary_loss()
            if auxiliary is not None:
                loss = loss + auxiliary
        return loss

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The mean cross entropy; and the logits, if they are ever whole."""
        if self.trunk is not None and HEAD not in self.trunk.eager:
            return self.trunk.losses(batch.inputs, batch.targets)[0], None
        forward = self._compiled or (self.model if self.trunk is None else self.trunk.logits)
        logits = forward(batch.inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten()), logits

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

    def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Repeats to the bit where training is to."""
        with strict_backward():
            super().backward(loss, *arguments, **keywords)

    def configure_gradient_clipping(self, *_: Any, **__: Any) -> None:
        """Clips the norm of all gradients together. Ours, for Lightning's own refuses fused AdamW
        under mixed precision, on account of a loss scaler that bfloat16 does not have.
        """
        for part in self.parts:
            part.mask()
        if self.optim.grad_clip is not None:
            clip_gradients(self.model.parameters(), self.optim.grad_clip)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, *arguments: Any, **keywords: Any
    ) -> None:
        """The step, then the layers' own; here, so that a checkpoint of the step holds both.

        Then gradients end, before the next forward pass, which Lightning lets hold them. Those of
        several ranks are views of DDP's buckets, which stay: new ones would be a copy beside them.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, *arguments, **keywords)
        for layer in self.model.ffn_layers():
            layer.after_step()
        optimizer.zero_grad(set_to_none=not torch.distributed.is_initialized())

    def optimizer_zero_grad(self, *_: Any, **__: Any) -> None:
        """Nothing: optimizer_step has done it."""

    def configure_optimizers(self) -> Any:
        """AdamW over the groups of groups.py, all under one schedule; of a stream, each stage has
        it from its beginning to its end.
        """
        o, batch_tokens = self.optim, self.plan.batch_tokens
        optimizer = build_optimizer(self.model, self.plan.lr, o, self.kernel)
        for part in self.parts:
            part.set_optimizer(optimizer, self.model)

        def factor(step: int) -> float:
            step, n_steps = step_of_stage(step, self.plan.stage_steps or (self.plan.n_steps,))
            return lr_factor(
                step,
                n_steps,
                kind=o.schedule,
                n_warmup=warmup_steps(o, n_steps, batch_tokens),
                n_decay=decay_steps(o, n_steps, batch_tokens),
                final=o.final_lr,
                shape=o.decay_shape,
                power=o.trunk_power,
            )

        scheduler = LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the losses of a shorter plan's steps, or of a longer one's first: a trunk's."""
        found = checkpoint["state_dict"]["step_losses"][: self.plan.n_steps]
        losses = torch.full_like(self.step_losses, math.nan, device=found.device)
        losses[: len(found)] = found
        checkpoint["state_dict"]["step_losses"] = losses

    def on_train_end(self) -> None:
        """The model is as it is to be scored."""
        for part in self.parts:
            part.end()

    def recent_loss(self, n_steps: int) -> float:
        """Mean training loss up to n_steps, over the last tenth of the planned; nan at 0."""
        done = self.step_losses[:n_steps]
        return float(done[-max(1, self.plan.n_steps // 10) :].double().mean())
