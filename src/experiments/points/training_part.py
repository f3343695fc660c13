"""A part of a run in the steps of its training, and the error that ends these early."""

from collections.abc import Callable, Collection
from typing import Any, ClassVar

from torch import Tensor, nn

from experiments.models.transformer import Transformer
from experiments.optim.optimizer import GroupedOptimizer


class TrainingPart(nn.Module):
    """A part's work in the steps of a training. Its buffers are in each checkpoint, under
    `state_name`, and what `kept` returns beside them.

    seconds: of its own work between steps, which is no training.
    """

    state_name: ClassVar[str]
    seconds: float = 0.0

    @property
    def apart(self) -> Collection[str]:
        """Parameters of the model, by name, of which each process has its own: their gradients are
        not averaged over processes.
        """
        return ()

    def set_optimizer(self, optimizer: GroupedOptimizer, model: Transformer) -> None:
        """Called once the optimizer is made, and before a checkpoint gives it its state."""

    def at_step(self, step: int, begun: Callable[[], object]) -> None:
        """Between steps, when `step` are taken: before the first of this process, and after each.

        begun(): to be called at each piece of long work, for the watchdog to hear of it.
        """

    def before_step(self, step: int) -> None:
        """Before the forward pass of the step of this number, from 0."""

    @property
    def reads_logits(self) -> bool:
        """Whether its penalty takes logits, which a fused head never has as a whole."""
        return type(self).penalty is not TrainingPart.penalty

    def penalty(self, model: Transformer, inputs: Tensor, logits: Tensor | None) -> Tensor | float:
        """Term to add to the loss of a batch of (batch, seq) inputs. logits: None only where no
        part of the run reads them.
        """
        return 0.0

    def after_backward(self) -> None:
        """After the last backward pass of a step, before gradients are masked and clipped."""

    def mask(self) -> None:
        """Drops gradients that shall change nothing, before they are clipped."""

    def end(self) -> None:
        """After the last step, before the model is scored."""

    def kept(self) -> dict[str, Any]:
        """Plain values for a checkpoint; {} of none."""
        return {}

    def take(self, kept: dict[str, Any]) -> None:
        """Takes those of a checkpoint."""

    def before_save(self, checkpoint: dict[str, Any]) -> None:
        """In each process, before rank 0 writes a checkpoint: takes out what it has written itself.
        Raises RuntimeError in all of them if one of them could not.
        """

    def before_load(self, checkpoint: dict[str, Any]) -> None:
        """In each process, before weights and moments are taken from a checkpoint: what is to be
        taken is put in. Raises ValueError for one that lacks it.
        """

    def columns(self) -> dict[str, Any]:
        """Columns of the record, when training has ended."""
        return {}


class DivergedError(Exception):
    """Says that the run to go on from has diverged, as this one would have, at that step."""

    def __init__(self, why: str, n_steps: int) -> None:
        super().__init__(why)
        self.n_steps = n_steps
