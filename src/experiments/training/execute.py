"""One point from its plan to its record: build, train, evaluate, write."""

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from omegaconf import OmegaConf

from experiments.config.fields import list_columns
from experiments.kernels.select import resolve_kernel
from experiments.points.planning import here
from experiments.points.point import Point
from experiments.points.training_part import DivergedError
from experiments.records.files import RECORD_NAME, write_record
from experiments.records.finished import ended_record
from experiments.records.record import RunRecord
from experiments.system import distributed, environment
from experiments.system.claims import (
    Claim,
    RunningElsewhereError,
    claimed,
    log_event,
    noting_interruption,
)
from experiments.system.credentials import cut
from experiments.system.device import peak_memory
from experiments.system.disk import remove, remove_leftovers, write_text_atomically
from experiments.training.checkpoints import forget_previous
from experiments.training.fit import Fit, Sink, fit, leave_group, set_up_process
from experiments.training.hopeless import Hopeless
from experiments.training.starting import Begun, begin, with_columns
from experiments.training.trackers.starting import start_trackers
from experiments.training.trackers.tracker import TrackedRun, Tracker
from experiments.training.watchdog import Guards


@environment.without_denormals()
def execute(
    point: Point,
    progress: Sink = lambda row: None,
    n_threads: int | None = None,
    on_stall: Callable[[str], object] = lambda why: None,
) -> RunRecord:
    """Runs the point and writes its folder; returns the record, whose status may be failed.

    n_threads: CPU threads if the config does not say; None for every core. A run that is finished
    already is not run again. on_stall(why) is called, in a thread, before the watchdog ends a
    process that makes no step, with exit code requeue.STALLED. An exception becomes a failed
    record with its traceback and is not raised; KeyboardInterrupt is (Interrupted is one), and
    leaves no record. Raises RunningElsewhereError if another process has the run or has taken it
    meanwhile, and RunLostError if its folder was moved or removed: then nothing more is written.
    Raises RuntimeError if no record can be written, and ValueError if the card that the point was
    planned for is not there.

    Of several ranks, rank 0 writes; the others return its record as planned.
    """
    point = here(point)
    other = distributed.is_other_rank(point.ranks)
    held: AbstractContextManager[Claim | None] = nullcontext() if other else claimed(point.run_dir)
    with held as claim:
        ended = ended_record(point.run_dir, aside=not other)
        if ended is not None:
            more = ended.status == "done" and ended.n_steps < point.plan.n_steps
            if not (point.is_trunk and more):  # one that ended where branches asked for goes on
                return ended
        if claim is None:
            set_up_process(point, n_threads)
            return _run(point, None)
        if ended is not None:
            remove(point.run_dir / RECORD_NAME)  # its state is running now
        remove_leftovers(point.run_dir)
        log_event(point.run_dir, "started")

        def stalled(why: str) -> None:
            log_event(point.run_dir, "stalled", why=why)
            on_stall(why)

        guards = Guards(check=claim.check, on_stall=stalled)
        with noting_interruption(claim):
            set_up_process(point, n_threads)
            record = _run(point, _First(guards=guards, progress=progress))
        log_event(point.run_dir, record.status)
        return record


@dataclass(frozen=True, kw_only=True)
class _First:
    """Duties of the first process of a run, which alone writes and tells; others have none."""

    guards: Guards
    progress: Sink


def _run(point: Point, first: _First | None) -> RunRecord:
    """Train, evaluate and, as the first process, write the record. Another one takes its share of
    training, and of scoring where none can do that alone; its record is as planned.
    """
    started, record = time.perf_counter(), planned_record(point)
    try:
        if first is not None:
            found = environment.snapshot_environment(point.device.accelerator)
            config = OmegaConf.to_yaml(OmegaConf.create(dict(point.raw)))
            write_text_atomically(point.run_dir / "config.yaml", config)
            text = json.dumps(found, indent=1) + "\n"
            write_text_atomically(point.run_dir / "environment.json", text, mode=0o600)
        record = _train_and_evaluate(point, record, first)
    except DivergedError as error:
        n_tokens = error.n_steps * point.plan.batch_tokens
        record = replace(record, status="diverged", n_tokens=n_tokens, error=str(error))
    except Exception:
        if first is None:
            raise
        first.guards.check()  # if the folder is gone, that is why
        record = replace(record, status="failed", error=cut(traceback.format_exc()))
    if first is None:
        return record
    first.guards.check()
    record = replace(
        record,
        wall_seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory(point.device.accelerator),
    )
    if record.status == "done":
        forget_previous(point.run_dir)  # before the record, after which nobody would
    try:
        write_record(point.run_dir, record)
    except RuntimeError as error:  # where there is no room for it either, this is all that is said
        why = record.error.strip().splitlines()[-1] if record.error else str(error)
        raise RuntimeError(f"{point.describe()}: no record could be written: {why}") from error
    for part in point.parts:
        part.ended(point, record)
    return record


def planned_record(point: Point) -> RunRecord:
    """All that is known beforehand. Its status is failed until the run has earned another."""
    plan, cost = point.plan, point.plan.cost
    reads = None  # the run's expert tables, e.g. 'cpp avx512'
    if any(term.n_tables for term in cost.terms):
        kernel = resolve_kernel(point.config.kernel, point.device.accelerator, torch.float32)
        reads = "reference" if kernel is None else f"{kernel.name} {kernel.variant}".strip()
    return RunRecord(
        run_id=point.run_id,
        sweep=point.config.sweep,
        status="failed",
        model=point.config.model_name,
        seed=point.config.seed,
        budget=point.config.budget,
        n_layers=point.config.size,
        d_model=point.transformer.d_model,
        n_experts=point.config.n_experts,
        n_params=cost.n_params,
        n_active_params=cost.n_active_params,
        n_non_embedding_params=cost.n_non_embedding_params,
        n_trained_params=cost.n_trained_params,
        flops_per_token=cost.training_flops,
        flops_shares=cost.shares(),
        planned_flops=plan.planned_flops,
        n_steps=plan.n_steps,
        batch_tokens=plan.batch_tokens,
        n_tokens=plan.n_tokens,
        lr=plan.lr,
        causal_eval=True,
        accelerator=point.device.accelerator,
        precision=point.device.precision,
        planned_card=None if point.config.cluster is None else point.config.cluster.card,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment={**environment.describe(point.device.accelerator), "kernel": reads},
        config=dict(point.raw),
        layer=list_columns(point.config.model),
    )


def _train_and_evaluate(point: Point, record: RunRecord, first: _First | None) -> RunRecord:
    """first: it scores the model, alone unless none can, and its record says what is found."""
    config, begun = point.config, begin(point, scores=first is not None)
    trackers: list[Tracker] = []
    hopeless: Hopeless | None = None
    sinks, guards = tuple[Sink, ...](), Guards()
    if first is not None:
        record = with_columns(record, begun.columns)
        run = TrackedRun(
            run_id=point.run_id,
            sweep=config.sweep,
            model=config.model_name,
            folder=point.run_dir,
            config=dict(point.raw),
        )
        trackers = start_trackers(config.logger, run)
        sinks, guards = (*(one.log for one in trackers), first.progress), first.guards
        if (within := config.trainer.stop_hopeless) is not None:
            hopeless = Hopeless(point.run_dir.parent, record, within)

    def begin_curves(rows: list[dict[str, float]]) -> None:
        for tracker in trackers:
            tracker.begin(rows)

    try:
        trained = fit(point, begun, sinks, guards, hopeless, begin_curves)
        if not point.scored_by_all:
            leave_group()
        loss = begun.module.recent_loss(trained.n_steps)
        whole = trained.n_steps == point.plan.n_steps and math.isfinite(loss)
        if first is not None:
            record = _trained(point, begun, trained, record, loss)
        if whole and not point.is_trunk and (first is not None or point.scored_by_all):
            record = _scored(point, begun, record)
        leave_group()
        if first is None:
            return replace(record, status="done")  # its own share is
        if trained.hopeless is not None:
            return replace(record, status="hopeless", error=trained.hopeless)
        done = whole if point.is_trunk else record.val_loss is not None
        return replace(record, status="done" if done else "diverged")
    finally:
        if trackers:
            summary = asdict(record)
            del summary["config"], summary["documents"]
            if isinstance(sys.exception(), KeyboardInterrupt | RunningElsewhereError):
                del summary["status"]  # it goes on later, so that failed would be wrong
            for tracker in trackers:
                tracker.finish(summary)


def _trained(point: Point, begun: Begun, trained: Fit, record: RunRecord, loss: float) -> RunRecord:
    """Record with what training came to, and the speed of the steps taken in this process."""
    module, own = begun.module, begun.prepared.train
    trunk = "compiled" if module.is_compiled else "eager"
    if module.trunk is not None:
        trunk = module.trunk.describe()
    n_tokens, speeds = trained.n_steps * point.plan.batch_tokens, dict[str, Any]()
    if trained.n_steps_here:
        tokens_per_second = trained.n_steps_here * point.plan.batch_tokens / trained.seconds
        flops_per_second = tokens_per_second * point.plan.cost.training_flops
        peak = point.peak_flops() * point.ranks.world_size
        speeds = {
            "tokens_per_second": tokens_per_second,
            "flops_per_second": flops_per_second,
            "peak_flops_per_second": peak,
            "mfu": flops_per_second / peak,
        }
    record = replace(
        record,
        environment={**record.environment, "trunk": trunk},
        n_tokens=n_tokens,
        achieved_flops=n_tokens * point.plan.cost.training_flops,
        epochs=None if own is None else n_tokens / own.n_tokens,
        tokenizer_sha256=begun.prepared.vocabulary.sha256,
        train_digest=None if own is None else own.digest,
        train_loss=_finite(loss),
        train_seconds=trained.seconds,
        compile_seconds=trained.compile_seconds,
        **speeds,
    )
    for training in module.parts:
        record = with_columns(record, training.columns())
    return record


def _scored(point: Point, begun: Begun, record: RunRecord) -> RunRecord:
    """Record with scores of the validation split, of its documents, and of the named sets."""
    begun.module.model.to(torch.device(point.device.accelerator))
    result, documents = begun.scores.validation_by_document()
    return replace(
        record,
        val_loss=_finite(result.loss),
        perplexity=_finite(result.perplexity),
        bits_per_byte=_finite(result.bits_per_byte),
        bytes_per_token=result.n_bytes / result.n_tokens,
        n_eval_tokens=result.n_tokens,
        usage=result.usage,
        unevenness=result.unevenness,
        causal_eval=result.causal,
        documents=documents,
        evaluations=begun.scores.of_sets(),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
