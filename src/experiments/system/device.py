"""Device of a run: that of this machine, or a cluster's card that it is planned for."""

import os
import resource
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.budget.plan import check_memory
from experiments.config.schema import RunConfig
from experiments.config.trainer import Cluster, spelled

_BF16_CAPABILITY = (8, 0)  # the first with bfloat16 in hardware: A100
_OTHER_MEMORY = 0.05  # a card whose memory differs by more is another one than was planned for


@dataclass(frozen=True, kw_only=True)
class Device:
    """accelerator: cpu or cuda. precision: Lightning's name.

    card: the cluster's, which the run is planned for and which need not be in this machine; None:
    the device is this machine's (device_here).
    """

    accelerator: str
    precision: str
    card: Cluster | None = None

    @property
    def memory(self) -> int | None:
        """Bytes; None: not known."""
        return total_memory(self.accelerator) if self.card is None else self.card.memory

    @property
    def sheet_flops(self) -> float | None:
        """FLOP/s of dense products by the card's data sheet; None of this machine's device."""
        if self.card is None:
            return None
        bf16 = self.card.bf16_flops if self.precision == "bf16-mixed" else None
        return bf16 or self.card.float32_flops

    def describe(self) -> str:
        """Device in a few words."""
        if self.card is not None:
            return f"{self.card.describe()}, {self.precision}"
        return f"this machine's {'GPU' if self.accelerator == 'cuda' else 'CPU'}, {self.precision}"


def find_device(config: RunConfig) -> Device:
    """Device that `cluster`, trainer.accelerator and trainer.precision mean: the cluster's card
    if one is given, else this machine's.

    auto takes a GPU if there is one, and bf16-mixed on a card that computes bfloat16, else float32.
    Raises ValueError for what is unknown, is not here, or contradicts the cluster.
    """
    trainer, cluster = config.trainer, config.cluster
    accelerator = _accelerator(trainer.accelerator)
    if cluster is None:
        accelerator = _here(accelerator)
        return Device(
            accelerator=accelerator,
            precision=_precision(trainer.precision, accelerator == "cuda" and _has_bf16()),
        )
    if accelerator == "cpu":
        raise ValueError(
            f"trainer.accelerator=cpu with a cluster of {cluster.card}: leave out one of them"
        )
    if trainer.devices > cluster.cards_per_node:
        raise ValueError(
            f"trainer.devices={trainer.devices} is above cluster.cards_per_node="
            f"{cluster.cards_per_node}; set trainer.num_nodes"
        )
    precision = _precision(trainer.precision, cluster.bf16_flops is not None)
    if precision == "bf16-mixed" and cluster.bf16_flops is None:
        raise ValueError(
            f"trainer.precision=bf16-mixed with a cluster of {cluster.card}, which computes no "
            "bfloat16 (cluster.bf16_flops=null) and emulates it slower than float32; set "
            "trainer.precision=32-true, or auto"
        )
    return Device(accelerator="cuda", precision=precision, card=cluster)


def device_here(config: RunConfig) -> Device:
    """This machine's GPU, for a run that was planned for the cluster's card. Raises ValueError if
    there is none.
    """
    assert config.cluster is not None
    if not torch.cuda.is_available():
        raise ValueError(
            f"the run is planned for {config.cluster.describe()}, and torch sees no GPU here; "
            "start it where one is, or leave out cluster=..."
        )
    precision = _precision(config.trainer.precision, _has_bf16())
    return Device(accelerator="cuda", precision=precision)


def check_card(planned: Cluster, device: Device, n_bytes: int) -> None:
    """Warns if this machine's GPU is another one than was planned for. Raises ValueError if a run
    of n_bytes does not fit into that one.
    """
    found, memory = torch.cuda.get_device_name(0), total_memory("cuda")
    assert memory is not None
    if planned.card.lower() in found.lower() and (
        abs(memory - planned.memory) <= _OTHER_MEMORY * planned.memory
    ):
        return
    check_memory(n_bytes, memory, f"the run, planned for {planned.describe()} and now on {found},")
    warnings.warn(
        f"planned for {planned.describe()}, and runs on {found} of {memory / 2**30:.1f} GiB in "
        f"{device.precision}: time and memory are not those of the plan",
        stacklevel=2,
    )


def _accelerator(accelerator: str) -> str:
    """Its one name. Raises ValueError for an unknown one."""
    accelerator = spelled(accelerator)
    if accelerator not in ("auto", "cpu", "cuda"):
        raise ValueError(f"trainer.accelerator={accelerator!r} is not one of auto, cpu, cuda")
    return accelerator


def _here(accelerator: str) -> str:
    """That of this machine. Raises ValueError for a GPU that is not there."""
    is_there = torch.cuda.is_available()
    if accelerator == "auto":
        return "cuda" if is_there else "cpu"
    if accelerator == "cuda" and not is_there:
        raise ValueError(
            "trainer.accelerator=cuda, but torch sees no GPU; use auto or cpu, or name the cards "
            "to plan for: cluster=h100 (conf/cluster)"
        )
    return accelerator


def _has_bf16() -> bool:
    """Whether this machine's card computes bfloat16. torch.cuda.is_bf16_supported counts cards that
    emulate it too, slower than float32.
    """
    return torch.cuda.get_device_capability() >= _BF16_CAPABILITY


def _precision(precision: str, has_bf16: bool) -> str:
    """That of a device. auto is never float16: its losses would have to be scaled, and a table that
    steps within the backward pass (optim.table_gradient=fused) would step by scaled gradients.
    """
    if precision == "auto":
        return "bf16-mixed" if has_bf16 else "32-true"
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"trainer.precision={precision!r} is not one of auto, 32-true, bf16-mixed")
    return precision


def total_memory(accelerator: str) -> int | None:
    """Bytes of the device's memory: the GPU's, or the machine's within its cgroup's limit."""
    if accelerator == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(limit).read_text().strip() if Path(limit).exists() else "max"
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=None)


def peak_memory(accelerator: str) -> int:
    """Bytes at most resident in this process so far; on a GPU, at most allocated there."""
    if accelerator == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
