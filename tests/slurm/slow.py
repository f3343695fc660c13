"""A layer that takes time and no processor: a job that lasts on any machine, at little cost."""

from dataclasses import dataclass
from time import sleep

from torch import Tensor

from experiments.models.ffn.dense import Dense, DenseConfig
from experiments.models.ffn.peer import PEER, PEERConfig

SECONDS = 0.1  # of each step
SLOW = "model._target_=tests.slurm.slow.SlowConfig"  # beside model=dense and size=1
SLOW_PEER = "model._target_=tests.slurm.slow.SlowPEERConfig"  # beside model=peer


@dataclass(frozen=True, kw_only=True)
class SlowConfig(DenseConfig):
    """Dense layer, in training SECONDS slower. For models of one layer."""

    def build(self, d_model: int) -> "Slow":
        """Layer at this width."""
        return Slow(d_model, self)


class Slow(Dense):
    """Waits, and computes as its base does."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        if self.training:
            sleep(SECONDS)
        return super().forward(x)


@dataclass(frozen=True, kw_only=True)
class SlowPEERConfig(PEERConfig):
    """PEER, in training so many seconds slower."""

    seconds: float = SECONDS

    def build(self, d_model: int) -> "SlowPEER":
        """Layer at this width."""
        layer = SlowPEER(d_model, self)
        layer.seconds = self.seconds
        return layer


class SlowPEER(PEER):
    """Waits, and computes as its base does."""

    by_columns = True
    seconds: float

    def forward(self, x: Tensor) -> Tensor:
        """(batch, seq, d_model) to the same."""
        if self.training:
            sleep(self.seconds)
        return super().forward(x)
