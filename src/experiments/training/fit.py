"""Training of one run, from its last whole checkpoint, by one process or several."""

import logging
import random
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
import torch

from experiments.points.point import Point
from experiments.records.files import HISTORY_NAME
from experiments.records.kept import Starts
from experiments.system import agreement, distributed, environment, interruption, started
from experiments.system.cards import own_index
from experiments.training.checkpoints import Checkpoint, RandomState
from experiments.training.compiled import CompileClock
from experiments.training.deterministic import set_deterministic
from experiments.training.history import History
from experiments.training.hopeless import Hopeless
from experiments.training.part_steps import PartSteps
from experiments.training.precision import TurnPrecision
from experiments.training.seal import SealedCheckpoints
from experiments.training.starting import Begun
from experiments.training.watchdog import Guards, every_second

Row = dict[str, float]
Sink = Callable[[Row], None]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Steps taken in all and in this process, and this process's seconds of training, and beside
    them of compiling (None: eager). hopeless: why it was stopped as such; None if it was not.
    """

    n_steps: int
    n_steps_here: int
    seconds: float
    compile_seconds: float | None
    hopeless: str | None = None


def set_up_process(point: Point, n_threads: int | None) -> None:
    """Its GPU, threads, seeds and malloc; everything that is global to the process."""
    if (
        point.device.accelerator == "cuda"
    ):  # first: what comes before is on the first GPU, a rank 0's
        torch.cuda.set_device(own_index(point.ranks.devices))
    environment.exact_products()
    if point.device.accelerator == "cpu":
        threads = point.config.trainer.n_threads or n_threads or environment.usable_cores()
        torch.set_num_threads(threads)
        environment.keep_freed_memory()
    random.seed(point.config.seed)
    np.random.seed(point.config.seed)
    torch.manual_seed(point.config.seed)
    set_deterministic(point.device.accelerator == "cuda" and point.config.trainer.deterministic)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # the compiler's advice


def fit(
    point: Point,
    begun: Begun,
    sinks: Sequence[Sink],
    guards: Guards,
    hopeless: Hopeless | None = None,
    begin: Callable[[list[Row]], None] = lambda rows: None,
) -> Fit:
    """Trains to the end of the plan, or until the run is hopeless. History and checkpoints go to
    the run's folder. sinks are told each row, begin first of all those of processes before.

    Raises Interrupted if a signal asked to stop before the end, once the checkpoint is written.
    """

    def also(row: Row) -> None:
        for sink in sinks:
            sink(row)

    module, resumed = begun.module, begun.resumed
    trainer_config, device, ranks = point.config.trainer, point.device, point.ranks
    every, clock = point.config.logger.log_every_n_steps, CompileClock()
    rank = started.rank() if ranks.world_size > 1 else 0
    watchdog = guards.watchdog(trainer_config.stall_minutes, rank)
    beat = watchdog.beat if watchdog else lambda: None
    parts = [PartSteps(part, beat) for part in module.parts]
    history = History(
        point.run_dir / HISTORY_NAME,
        every,
        also,
        lambda: clock.seconds + sum(part.seconds for part in module.parts),
        guards.check,
        is_trunk=point.is_trunk,
        begin=begin,
    )
    keep_at = (max(1, round(share * point.plan.n_steps)) for share in trainer_config.keep_at)
    starts = Starts(point.run_dir) if point.is_trunk else frozenset(keep_at)
    checkpoint = Checkpoint(
        point.run_dir, trainer_config.checkpoint_minutes, resumed, starts, guards.check
    )
    callbacks = [history, *parts, RandomState(), checkpoint]
    trainer = pl.Trainer(
        max_steps=point.plan.n_steps,
        max_epochs=-1,
        accelerator=device.accelerator,
        devices=distributed.devices(ranks, device.accelerator),
        num_nodes=ranks.num_nodes,
        strategy=distributed.strategy(ranks, device.accelerator, trainer_config.stall_minutes),
        callbacks=callbacks,
        plugins=[
            distributed.cluster_environment(ranks),
            SealedCheckpoints(),
            TurnPrecision(device),
        ],
        default_root_dir=point.run_dir,
        use_distributed_sampler=False,  # our batches know their rank
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    look = every_second(guards.check)

    def after_step(n_steps: int) -> None:
        """Before a checkpoint of it, which has what a part keeps of the step."""
        interruption.note_unsaved(True)
        look()
        beat()
        history.after_step(n_steps)
        if hopeless is not None and history.last_row == n_steps and hopeless.look(history.rows):
            trainer.should_stop = True
        for part in module.parts:
            part.at_step(n_steps, beat)

    def turn_ends(n_steps: int) -> bool:
        return (
            n_steps == point.plan.n_steps
            or trainer.should_stop
            or ranks.world_size > 1  # they vote
            or checkpoint.is_due(n_steps)
        )

    module.after_step, module.turn_ends = after_step, turn_ends
    interruption.forget()  # one that ended an earlier run of this process is not for this one
    try:
        watching = watchdog.watching() if watchdog else nullcontext()
        with interruption.deferred(), watching, clock.counted():
            trainer.fit(module, begun.data, ckpt_path=resumed)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    why = interruption.received()  # at the last step too: what comes then would take its time
    if checkpoint.stopped or why is not None:
        raise interruption.Interrupted(why or "another rank's signal", trainer.global_step)
    return Fit(
        n_steps=trainer.global_step,
        n_steps_here=history.steps_here,
        seconds=history.seconds,
        compile_seconds=clock.seconds if module.is_compiled else None,
        hopeless=None if hopeless is None else hopeless.why,
    )


def leave_group() -> None:
    """Ends communication between ranks, so that rank 0 can score the model alone."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
        agreement.forget()
