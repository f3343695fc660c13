"""Ranks: how many processes train one run, and which of them this is."""

import os
from datetime import timedelta
from typing import Any

import torch

from experiments.config.schema import RunConfig


def world_size(config: RunConfig) -> int:
    """Processes that train the run together, one a device."""
    return config.trainer.devices * config.trainer.num_nodes


def check_ranks(config: RunConfig) -> None:
    """Raises ValueError if the batch can't be shared evenly."""
    n = world_size(config)
    if config.trainer.devices < 1 or config.trainer.num_nodes < 1:
        raise ValueError(
            f"trainer.devices={config.trainer.devices} and trainer.num_nodes="
            f"{config.trainer.num_nodes} must be at least 1"
        )
    micro = config.trainer.micro_batch_size
    if micro is not None and (micro < 1 or config.ladder.batch_size % (n * micro)):
        raise ValueError(
            f"trainer.micro_batch_size={micro} must divide the {config.ladder.batch_size // n} "
            "sequences of a process's batch"
        )
    if config.ladder.batch_size % n:
        raise ValueError(
            f"ladder.batch_size={config.ladder.batch_size} must be a multiple of the {n} ranks "
            "(trainer.devices * trainer.num_nodes)"
        )


def n_micro_batches(config: RunConfig) -> int:
    """Forward passes of a process in a step."""
    micro = config.trainer.micro_batch_size
    return 1 if micro is None else config.ladder.batch_size // world_size(config) // micro


def sum_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """The sum of x over the ranks, whose gradient is the sum of the ranks' gradients."""
    return _SumOverRanks.apply(x)


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _SumOverRanks.apply(grad)


def rank() -> int:
    """This process's global rank, from what started it: srun, torchrun, or nothing (0)."""
    for name in ("RANK", "SLURM_PROCID"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def is_other_rank(config: RunConfig) -> bool:
    """Whether this process trains a share of the run and leaves all else to rank 0."""
    return world_size(config) > 1 and rank() > 0


def cluster_environment(config: RunConfig) -> Any:
    """What tells Lightning of the other ranks.

    A single-process run ignores Slurm's environment. Requeueing is ours (requeue.py), because
    Lightning's saves inside a signal handler.
    """
    # seconds to import, and planning needs the rest of this file alone
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    check_started(config)
    if world_size(config) == 1:
        return LightningEnvironment()
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)


def strategy(config: RunConfig) -> Any:
    """Lightning's, of the ranks. They wait for each other, to begin with and in a collective, for
    half an hour; or longer than the watchdog, which has more to say than a failed collective.
    """
    from lightning.pytorch.strategies import DDPStrategy

    if world_size(config) == 1:
        return "auto"
    minutes = max(30.0, (config.trainer.stall_minutes or 0.0) + 10.0)
    return DDPStrategy(timeout=timedelta(minutes=minutes))


def check_started(config: RunConfig) -> None:
    """Raises ValueError if the processes that started are not those that the run needs."""
    wanted = world_size(config)
    started = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))
    if wanted > 1 and started != wanted:
        raise ValueError(
            f"the run needs {wanted} processes (trainer.devices={config.trainer.devices} x "
            f"trainer.num_nodes={config.trainer.num_nodes}) and {started} were started; start it "
            f"with srun --ntasks-per-node={config.trainer.devices}, as hydra/launcher=slurm does, "
            "or with torchrun"
        )
