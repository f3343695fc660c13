"""Ranks: the number of processes that train one run, and the rank of this one."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from experiments.config.schema import RunConfig
from experiments.system import started
from experiments.system.cards import own_index


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """How processes, one a device, share the batch of a step. n_micro: forward passes of each.
    n_sequences: of one forward pass.
    """

    devices: int  # of a node
    num_nodes: int
    n_micro: int
    n_sequences: int

    @property
    def world_size(self) -> int:
        """Processes that train the run together."""
        return self.devices * self.num_nodes

    @property
    def batch_size(self) -> int:
        """Sequences of a step, of all processes."""
        return self.world_size * self.n_micro * self.n_sequences


def share_batch(config: RunConfig) -> Ranks:
    """Raises ValueError if the batch can't be shared evenly."""
    trainer, batch_size = config.trainer, config.ladder.batch_size
    if trainer.devices < 1 or trainer.num_nodes < 1:
        raise ValueError(
            f"trainer.devices={trainer.devices} and trainer.num_nodes={trainer.num_nodes} "
            "must be at least 1"
        )
    n, micro = trainer.devices * trainer.num_nodes, trainer.micro_batch_size
    if micro is not None and (micro < 1 or batch_size % (n * micro)):
        raise ValueError(
            f"trainer.micro_batch_size={micro} must divide the {batch_size // n} "
            "sequences of a process's batch"
        )
    if batch_size % n:
        raise ValueError(
            f"ladder.batch_size={batch_size} must be a multiple of the {n} ranks "
            "(trainer.devices * trainer.num_nodes)"
        )
    n_sequences = batch_size // n if micro is None else micro
    return Ranks(
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        n_micro=batch_size // (n * n_sequences),
        n_sequences=n_sequences,
    )


def is_other_rank(ranks: Ranks) -> bool:
    """Whether this process trains a share of the run and leaves all else to rank 0."""
    return ranks.world_size > 1 and started.rank() > 0


def cluster_environment(ranks: Ranks) -> Any:
    """Lightning's source of the other ranks.

    A single-process run ignores Slurm's environment. Requeueing is ours (sweep/queues/slurm.py),
    because Lightning's saves inside a signal handler.
    """
    # seconds to import, and planning needs the rest of this file alone
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    check_started(ranks)
    if ranks.world_size == 1:
        return LightningEnvironment()
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)


def devices(ranks: Ranks, accelerator: str) -> int | list[int]:
    """Lightning's: on GPUs, the one of this rank."""
    return [own_index(ranks.devices)] if accelerator == "cuda" else ranks.devices


def strategy(ranks: Ranks, accelerator: str, stall_minutes: float | None) -> Any:
    """Lightning's, of the ranks. They wait for each other, to begin with and in a collective, for
    half an hour; or longer than the watchdog, which has more to say than a failed collective.
    Gradients are views of the buckets that are averaged: else they would be held twice.
    """
    from lightning.pytorch.strategies import DDPStrategy

    if ranks.world_size == 1:
        return "auto"
    own = None
    if accelerator == "cuda":  # Lightning takes the local rank's of these, and counts them
        own = [torch.device("cuda", own_index(ranks.devices))] * ranks.devices
    return DDPStrategy(
        parallel_devices=own, timeout=patience(stall_minutes), gradient_as_bucket_view=True
    )


def patience(stall_minutes: float | None) -> timedelta:
    """How long ranks wait for each other in a collective."""
    return timedelta(minutes=max(30.0, (stall_minutes or 0.0) + 10.0))


def check_started(ranks: Ranks) -> None:
    """Raises ValueError if the processes that started are not those that the run needs."""
    wanted, there = ranks.world_size, started.n_processes()
    if wanted > 1 and there != wanted:
        raise ValueError(
            f"the run needs {wanted} processes (trainer.devices={ranks.devices} x "
            f"trainer.num_nodes={ranks.num_nodes}) and {there} were started; start it "
            f"with srun --ntasks-per-node={ranks.devices}, as hydra/launcher=slurm does, "
            "or with torchrun"
        )
