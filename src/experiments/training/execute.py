"""One point from its plan to its record: build, train, evaluate, write."""

import json
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from experiments.config.fields import list_columns
from experiments.kernels.select import resolve_kernel
from experiments.points.planning import here
from experiments.points.point import DivergedError, Point
from experiments.records.files import (
    RECORD_NAME,
    DamagedError,
    read_record,
    set_aside,
    write_record,
)
from experiments.records.finished import is_finished
from experiments.records.record import RunRecord
from experiments.system import distributed, environment, interruption
from experiments.system.claims import Claim, RunningElsewhereError, claimed, log_event
from experiments.system.credentials import cut
from experiments.system.device import peak_memory
from experiments.system.disk import remove, remove_leftovers, write_text_atomically
from experiments.training.checkpoints import forget_previous
from experiments.training.evaluation import Evaluation
from experiments.training.fit import Fit, Sink, fit, leave_group, rates, set_up_process
from experiments.training.hopeless import of_point
from experiments.training.module import LanguageModel
from experiments.training.starting import Begun, begin, with_columns
from experiments.training.tracking import WandbRun
from experiments.training.watchdog import Guards

_STREAM_WORKERS = 2  # they tokenize; more where the cores are there, by trainer.n_loader_workers


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
    if distributed.is_other_rank(point.ranks):
        if is_finished(point.run_dir):
            record = read_record(point.run_dir / RECORD_NAME)
            if not _goes_on(point, record):
                return record
        return _other_rank(point, n_threads)
    with claimed(point.run_dir) as claim:
        finished = _finished(point.run_dir)
        if finished is not None and not _goes_on(point, finished):
            return finished
        if finished is not None:
            remove(point.run_dir / RECORD_NAME)  # its state is running now
        remove_leftovers(point.run_dir)
        log_event(point.run_dir, "started")

        def tell(error: KeyboardInterrupt) -> None:
            claim.check()
            step = getattr(error, "step", None)
            log_event(point.run_dir, "interrupted", why=str(error), step=step)

        with interruption.told(tell):
            record = _run(point, progress, n_threads, claim, on_stall)
        log_event(point.run_dir, record.status)
        return record


def _finished(run_dir: Path) -> RunRecord | None:
    """Record of a run that needs no more work. One that is damaged is set aside."""
    path = run_dir / RECORD_NAME
    try:
        record = read_record(path)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        if isinstance(error.__cause__, OSError):
            raise  # it may be whole, and of somebody else
        warnings.warn(f"{error}; it is kept as {set_aside(path).name}", stacklevel=2)
        return None
    return None if record.status == "failed" else record


def _goes_on(point: Point, finished: RunRecord) -> bool:
    """Whether it is a trunk that ended where the branches before asked for, and is to go on."""
    done = finished.status == "done"
    return point.is_trunk and done and finished.n_steps < point.plan.n_steps


def _run(
    point: Point,
    progress: Sink,
    n_threads: int | None,
    claim: Claim,
    on_stall: Callable[[str], object],
) -> RunRecord:
    started = time.perf_counter()
    set_up_process(point, n_threads)  # before the record, which says how many threads there are
    record = _planned_record(point)
    try:
        _write_surroundings(point)
        guards = Guards(check=claim.check, on_stall=partial(_stalled, point.run_dir, on_stall))
        record = _train_and_evaluate(point, record, progress, guards)
    except DivergedError as error:
        n_tokens = error.n_steps * point.plan.batch_tokens
        record = replace(record, status="diverged", n_tokens=n_tokens, error=str(error))
    except Exception:
        claim.check()  # if the folder is gone, that is why
        record = replace(record, status="failed", error=cut(traceback.format_exc()))
    claim.check()
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


def _write_surroundings(point: Point) -> None:
    """config.yaml and environment.json."""
    accelerator, config = point.device.accelerator, OmegaConf.create(dict(point.raw))
    surroundings = environment.snapshot_environment(accelerator)
    write_text_atomically(point.run_dir / "config.yaml", OmegaConf.to_yaml(config))
    text = json.dumps(surroundings, indent=1) + "\n"
    write_text_atomically(point.run_dir / "environment.json", text, mode=0o600)


def _stalled(run_dir: Path, on_stall: Callable[[str], object], why: str) -> None:
    log_event(run_dir, "stalled", why=why)
    on_stall(why)


def _other_rank(point: Point, n_threads: int | None) -> RunRecord:
    """A rank's share of the training, and of scoring where none can do that alone."""
    set_up_process(point, n_threads)
    record = _planned_record(point)
    try:
        begun = begin(point, scores=False)
    except DivergedError:
        return replace(record, status="diverged")
    trained = fit(point, begun.module, begun.data, (), Guards(), begun.resumed)
    if point.scored_by_all and not point.is_trunk and _is_whole(point, begun, trained):
        _scores(point, begun)
    leave_group()
    return replace(record, status="done")  # its own share is


def _planned_record(point: Point) -> RunRecord:
    """All that is known beforehand. Its status is failed until the run has earned another."""
    plan, cost, kernel = point.plan, point.plan.cost, _kernel(point)
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
        environment={
            **environment.describe(point.device.accelerator),
            "kernel": kernel,
        },
        config=dict(point.raw),
        layer=list_columns(point.config.model),
    )


def _kernel(point: Point) -> str | None:
    """What reads the run's expert tables, e.g. 'cpp avx512'; None if it has none."""
    if not any(term.n_tables for term in point.plan.cost.terms):
        return None
    kernel = resolve_kernel(point.config.kernel, point.device.accelerator, torch.float32)
    return "reference" if kernel is None else f"{kernel.name} {kernel.variant}".strip()


def _trunk(module: LanguageModel) -> str:
    """Says how the trunk was computed in training, e.g. 'fused avx512'."""
    if module.trunk is not None:
        return module.trunk.describe()
    return "compiled" if module.is_compiled else "eager"


def _train_and_evaluate(
    point: Point, record: RunRecord, progress: Sink, guards: Guards
) -> RunRecord:
    config, begun = point.config, begin(point, scores=True)
    record = with_columns(record, begun.columns)
    wandb_run = WandbRun(
        config.logger,
        run_id=point.run_id,
        sweep=config.sweep,
        model=config.model_name,
        folder=point.run_dir,
        config=dict(point.raw),
    )
    try:
        sinks = (wandb_run.log, progress)
        hopeless = of_point(point, record)
        trained = fit(point, begun.module, begun.data, sinks, guards, begun.resumed, hopeless)
        if not point.scored_by_all:
            leave_group()
        record = replace(record, environment={**record.environment, "trunk": _trunk(begun.module)})
        n_tokens, own = trained.n_steps * point.plan.batch_tokens, begun.prepared.train
        record = replace(
            record,
            n_tokens=n_tokens,
            achieved_flops=n_tokens * point.plan.cost.training_flops,
            epochs=None if own is None else n_tokens / own.n_tokens,
            tokenizer_sha256=begun.prepared.vocabulary.sha256,
            train_digest=None if own is None else own.digest,
            train_loss=_finite(begun.module.recent_loss(trained.n_steps)),
            train_seconds=trained.seconds,
            compile_seconds=trained.compile_seconds,
            **rates(point, trained),
        )
        for training in begun.module.parts:
            record = with_columns(record, training.columns())
        whole = _is_whole(point, begun, trained)
        if whole and not point.is_trunk:
            held_out, documents, evaluations = _scores(point, begun)
            record = replace(record, **_results(held_out), documents=documents)
            record = replace(record, evaluations=evaluations)
        leave_group()
        if trained.hopeless is not None:
            return replace(record, status="hopeless", error=trained.hopeless)
        done = whole if point.is_trunk else record.val_loss is not None
        return replace(record, status="done" if done else "diverged")
    finally:
        summary = asdict(record)
        del summary["config"], summary["documents"]
        if isinstance(sys.exception(), KeyboardInterrupt | RunningElsewhereError):
            del summary["status"]  # it goes on later, so that failed would be wrong
        wandb_run.finish(summary)


def _is_whole(point: Point, begun: Begun, trained: Fit) -> bool:
    """Whether it has come to the end of its plan, with a loss that is a number."""
    loss = begun.module.recent_loss(trained.n_steps)
    return trained.n_steps == point.plan.n_steps and math.isfinite(loss)


def _scores(
    point: Point, begun: Begun
) -> tuple[Evaluation, dict[str, Any], dict[str, dict[str, Any]]]:
    """Scores of the validation split, of its documents, and of the named sets."""
    begun.module.model.to(torch.device(point.device.accelerator))
    return *begun.scores.validation_by_document(), begun.scores.of_sets()


def _results(result: Evaluation) -> dict[str, Any]:
    return {
        "val_loss": _finite(result.loss),
        "perplexity": _finite(result.perplexity),
        "bits_per_byte": _finite(result.bits_per_byte),
        "bytes_per_token": result.n_bytes / result.n_tokens,
        "n_eval_tokens": result.n_tokens,
        "usage": result.usage,
        "unevenness": result.unevenness,
        "causal_eval": result.causal,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
