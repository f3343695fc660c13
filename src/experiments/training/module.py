"""LightningModule: loss, optimizer, schedule."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from experiments.budget.plan import Plan
from experiments.config.constraints import KernelName
from experiments.config.optim import Optim
from experiments.data.batches import Batch
from experiments.models.fused import HEAD, Fused
from experiments.models.recomputed import Recomputed
from experiments.models.transformer import Transformer
from experiments.optim.gradients import clip_gradients
from experiments.optim.groups import build_optimizer
from experiments.optim.rates import Rates
from experiments.optim.schedule import decay_steps, step_of_stage, warmup_steps
from experiments.points.training_part import TrainingPart
from experiments.records.schedule import lr_factor
from experiments.system.table_files import join
from experiments.training.compiled import compile_trunk
from experiments.training.deterministic import strict_backward

DIVERGED_LOSS = 2.0  # times log(vocab_size), the loss of a model that knows nothing


class LanguageModel(pl.LightningModule):
    """Next-token training of a Transformer under a plan, a step's batch in n_micro parts.

    kernel and optim.table_gradient say how the layers' tables are read and what their gradients
    become: the model's execution, which configure_optimizers sets (groups.py). compiled: training
    steps call the trunk that torch.compile makes (compiled.py). trunk: or another pass (trunk.py).

    A turn of Lightning's loop costs 0.4 ms for its hooks, contexts and counters, as much as the
    arithmetic of a small model's step. So a turn takes several steps. after_step(n) is called after
    each, with the steps taken so far, and turn_ends(n) says whether Lightning's callbacks are to
    hear of it, as where a checkpoint is due.
    """

    after_step: Callable[[int], object]
    turn_ends: Callable[[int], bool]

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
        self.n_micro, self.automatic_optimization = n_micro, False
        self._in_order: list[nn.Parameter] = []  # once they are on their device
        self._apart_names: set[str] = set()
        self._own: list[nn.Parameter] = []  # those that other processes have others of
        self._compiled = compile_trunk(model) if compiled else None  # a function: no submodule
        self.trunk: Fused | Recomputed | None = None
        self.parts: list[TrainingPart] = []
        self.after_step, self.turn_ends = lambda n_steps: None, lambda n_steps: True
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
        self._apart_names |= set(part.apart)
        # of torch's DDP, which neither averages these nor makes them rank 0's at the start
        self._ddp_params_and_buffers_to_ignore = sorted(f"model.{n}" for n in self._apart_names)

    def on_train_start(self) -> None:
        """By now several ranks know of each other."""
        if isinstance(self.trunk, Fused):
            self.trunk.look_again()

    def training_step(self, batches: Iterator[Batch]) -> None:
        """A turn of Lightning's loop."""
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, Rates)
        step = self.global_step
        while True:
            self.take_step(step, batches, optimizer)
            schedule.step()
            step += 1
            self.after_step(step)
            if self.turn_ends(step):
                return

    def take_step(self, step: int, batches: Iterator[Batch], optimizer: LightningOptimizer) -> None:
        """A step, and the layers' own after it.

        Then gradients end, before the next forward pass. Those of several ranks are views of DDP's
        buckets, which stay: new ones would be a copy beside them.
        """
        strategy = self.trainer.strategy
        noted: Tensor | float = 0.0
        for part in self.parts:
            part.before_step(step)
        for left in reversed(range(self.n_micro)):
            batch = next(batches, None)
            assert batch is not None, "batches have no end"
            with self._apart() if left else nullcontext():
                with self.trainer.precision_plugin.forward_context():
                    loss, own = self.losses(batch)
                if self.n_micro > 1:
                    loss, own = loss / self.n_micro, own / self.n_micro
                noted = noted + own
                strategy.pre_backward(loss)
                self.backward(loss)
                strategy.post_backward(loss)
        self.step_losses[step] = noted
        for part in self.parts:
            part.after_backward()
        self.clip()
        optimizer.step()
        for layer in self.model.ffn_layers():
            layer.after_step()
        if torch.distributed.is_initialized():
            for parameter in self._own:
                parameter.grad = None
            optimizer.zero_grad(set_to_none=False)
        else:
            for parameter in self._in_order:
                parameter.grad = None

    def _apart(self) -> AbstractContextManager[None]:
        """Around a backward pass whose gradients are not averaged over ranks yet."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ParallelStrategy):
            return strategy.block_backward_sync()
        return nullcontext()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch in nats/token: plus the layers' and the parts' own, to be
        minimized, and alone, over all ranks.
        """
        inputs, targets = (t.to(self.device, non_blocking=True) for t in batch[:2])
        loss, logits = self._loss(inputs, targets)
        own = self._over_ranks(loss.detach())
        for part in self.parts:
            loss = loss + part.penalty(self.model, inputs, logits)
        for layer in self.model.ffn_layers():
            auxiliary = layer.auxiliary_loss()
            if auxiliary is not None:
                loss = loss + auxiliary
        return loss, own

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean cross entropy; and the logits, if they are ever whole."""
        if isinstance(self.trunk, Fused) and HEAD not in self.trunk.eager:
            return self.trunk.losses(inputs, targets)[0], None
        forward = self._compiled or (self.model if self.trunk is None else self.trunk.logits)
        logits = forward(inputs)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()), logits

    def _over_ranks(self, loss: Tensor) -> Tensor:
        """Mean over ranks, each of which has the same number of tokens."""
        if torch.distributed.is_initialized():
            loss = loss / torch.distributed.get_world_size()
            torch.distributed.all_reduce(loss)
        return loss

    def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Repeats to the bit where training is to."""
        with strict_backward():
            super().backward(loss, *arguments, **keywords)

    def clip(self) -> None:
        """Clips the norm of all gradients together, once the parts have dropped theirs."""
        for part in self.parts:
            part.mask()
        if self.optim.grad_clip is not None:
            clip_gradients(self._in_order, self.optim.grad_clip, self.model.columns, self._own)

    def configure_optimizers(self) -> Any:
        """Optimizer, whose groups (groups.py) are all under one schedule; of a stream, each
        stage has it from its beginning to its end.
        """
        o, batch_tokens = self.optim, self.plan.batch_tokens
        optimizer = build_optimizer(self.model, self.plan.lr, o, self.kernel)
        self._in_order = list(self.model.parameters())
        self._own = [self.model.get_parameter(name) for name in sorted(self._apart_names)]
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

        return {"optimizer": optimizer, "lr_scheduler": Rates(optimizer, factor)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lets the parts take out what is not for rank 0 to write."""
        for part in self.parts:
            part.before_save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lets the parts put in what is theirs, and puts tables together that none of them takes.
        Takes the losses of a shorter plan's steps, or of a longer one's first: a trunk's. And
        the number of steps where Lightning looks for it: before a turn held several, elsewhere.
        """
        for part in self.parts:
            part.before_load(checkpoint)
        join(checkpoint)
        steps = dict.fromkeys(("ready", "completed"), checkpoint["global_step"])
        place = "epoch_loop.manual_optimization.optim_step_progress"
        checkpoint["loops"]["fit_loop"][place] = {"total": steps, "current": dict(steps)}
        found = checkpoint["state_dict"]["step_losses"][: self.plan.n_steps]
        losses = torch.full_like(self.step_losses, math.nan, device=found.device)
        losses[: len(found)] = found
        checkpoint["state_dict"]["step_losses"] = losses

    def on_train_end(self) -> None:
        """Leaves the model as it is to be scored."""
        for part in self.parts:
            part.end()

    def recent_loss(self, n_steps: int) -> float:
        """Mean training loss up to n_steps, over the last tenth of the planned; nan at 0."""
        done = self.step_losses[:n_steps]
        return float(done[-max(1, self.plan.n_steps // 10) :].double().mean())
