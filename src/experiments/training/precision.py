"""Lightning's plugin of a precision, for a training step that takes several of the optimizer's."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins.precision import Precision

from experiments.system.device import Device


class TurnPrecision(Precision):
    """32-true or bf16-mixed of a turn (module.py). Autocast is around each forward pass, and not
    around the turn, which holds backward passes and the optimizer's steps too.
    """

    def __init__(self, device: Device) -> None:
        self.device = device

    @contextmanager
    def forward_context(self) -> Generator[None, None, None]:
        if self.device.precision == "bf16-mixed":
            with torch.autocast(self.device.accelerator, torch.bfloat16, cache_enabled=False):
                yield
        else:
            yield

    @contextmanager
    def train_step_context(self) -> Generator[None, None, None]:
        yield

    def optimizer_step(self, optimizer: Any, *_: Any, **__: Any) -> Any:
        """Without Lightning's hooks around it, which nothing here has."""
        return optimizer.step()
