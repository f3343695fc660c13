"""One point from its plan to its record: build, train, evaluate, write."""

import logging
import math
import random
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from omegaconf import OmegaConf

from experiments import environment
from experiments.data.module import Consumed, TokenDataModule
from experiments.data.prepare import PreparedData, prepare_data, prepare_sets, training_batches
from experiments.data.windows import ScoredWindows
from experiments.evaluation import Evaluation, bytes_of_tokens, evaluate, score_sets
from experiments.models.transformer import Transformer
from experiments.point import Point
from experiments.records import RunRecord, write_record, write_text_atomically
from experiments.tracking import WandbRun
from experiments.train import CHECKPOINT_NAME, Checkpoint, History, LanguageModel

_STREAM_WORKERS = 2  # they tokenize; more where the cores are there, by trainer.n_loader_workers

ProgressSink = Callable[[dict[str, float]], None]


def execute(
    point: Point, progress: ProgressSink = lambda row: None, n_threads: int | None = None
) -> RunRecord:
    """Runs the point and writes its folder; returns the record, whose status may be failed.

    n_threads: CPU threads if the config does not say; None for every core.
    An exception becomes a failed record with its traceback and is not raised; KeyboardInterrupt
    is, and leaves no record.
    """
    started = time.perf_counter()
    accelerator = environment.resolve_accelerator(point.config.trainer.accelerator)
    point.run_dir.mkdir(parents=True, exist_ok=True)
    write_text_atomically(
        point.run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(point.raw)))
    )
    record = _planned_record(point, accelerator)
    try:
        _set_up_process(point, accelerator, n_threads)
        record = _train_and_evaluate(point, record, accelerator, progress)
    except Exception:
        record = replace(record, status="failed", error=traceback.format_exc())
    record = replace(
        record,
        wall_seconds=time.perf_counter() - started,
        peak_memory_bytes=environment.peak_memory(accelerator),
    )
    write_record(point.run_dir, record)
    return record


def _planned_record(point: Point, accelerator: str) -> RunRecord:
    """All that is known beforehand. Its status is failed until the run has earned another."""
    plan, cost = point.plan, point.plan.cost
    return RunRecord(
        run_id=point.run_id,
        sweep=point.config.sweep,
        status="failed",
        model=point.config.model_name,
        seed=point.config.seed,
        budget=plan.budget,
        n_layers=plan.n_layers,
        d_model=plan.d_model,
        n_experts=point.config.n_experts,
        n_params=cost.n_params,
        n_active_params=cost.n_active_params,
        n_non_embedding_params=cost.n_non_embedding_params,
        flops_per_token=cost.training_flops,
        flops_shares=cost.shares(),
        planned_flops=plan.planned_flops,
        n_steps=plan.n_steps,
        batch_tokens=plan.batch_tokens,
        n_tokens=plan.n_tokens,
        lr=plan.lr,
        causal_eval=True,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment.describe(accelerator, Path(__file__).parent),
        config=dict(point.raw),
    )


def _train_and_evaluate(
    point: Point, record: RunRecord, accelerator: str, progress: ProgressSink
) -> RunRecord:
    config = point.config
    precision = environment.resolve_precision(config.trainer.precision, accelerator)
    prepared = prepare_data(config.data, point.cache)
    sets = prepare_sets(config.data, config.eval, prepared.vocabulary, point.cache)
    module = LanguageModel(build_model(point, prepared), point.plan, config.optim)
    wandb_run = WandbRun(
        config.logger,
        run_id=point.run_id,
        sweep=config.sweep,
        model=config.model_name,
        folder=point.run_dir,
        config=dict(point.raw),
    )
    try:
        fit = _fit(
            point,
            module,
            _data_module(point, prepared),
            accelerator,
            precision,
            (wandb_run.log, progress),
        )
        n_tokens = fit.n_steps * point.plan.batch_tokens
        flops = n_tokens * point.plan.cost.training_flops
        record = replace(
            record,
            n_tokens=n_tokens,
            achieved_flops=flops,
            epochs=None if prepared.train is None else n_tokens / prepared.train.n_tokens,
            tokenizer_sha256=prepared.vocabulary.sha256,
            train_digest=None if prepared.train is None else prepared.train.digest,
            train_loss=_finite(module.recent_loss(fit.n_steps)),
            train_seconds=fit.seconds,
            **_rates(point, fit, accelerator, precision),
        )
        if fit.n_steps == point.plan.n_steps and record.train_loss is not None:
            device = torch.device(accelerator)
            model = module.model.to(device)
            record = replace(record, **_results(_validate(point, model, prepared, device)))
            scores = score_sets(
                model,
                sets,
                prepared.vocabulary,
                config.evaluation,
                seq_len=config.data.seq_len,
                batch_size=config.ladder.batch_size,
                device=device,
            )
            record = replace(record, evaluations=scores)
        record = replace(record, status="diverged" if record.val_loss is None else "done")
        return record
    finally:
        summary = asdict(record)
        del summary["config"]
        wandb_run.finish(summary)


def build_model(point: Point, prepared: PreparedData) -> Transformer:
    """The point's model for this data: masked at the ends of documents, if it is to be."""
    masks = point.config.data.mask_documents
    end = prepared.vocabulary.end_of_text if masks else None
    return replace(point.transformer, document_end=end).build()


def _data_module(point: Point, prepared: PreparedData) -> TokenDataModule:
    config = point.config
    n_workers = config.trainer.n_loader_workers
    if n_workers is None:
        n_workers = _STREAM_WORKERS if config.data.streaming else 0
    make_batches = partial(
        training_batches,
        config.data,
        prepared,
        point.cache,
        batch_size=config.ladder.batch_size,
        seed=config.seed,
    )
    return TokenDataModule(make_batches, n_workers)


def _validate(
    point: Point, model: Transformer, prepared: PreparedData, device: torch.device
) -> Evaluation:
    """The run's own number: fixed windows, spread over the validation split."""
    windows = ScoredWindows(
        prepared.validation,
        seq_len=point.config.data.seq_len,
        batch_size=point.config.ladder.batch_size,
        max_tokens=point.config.data.n_eval_tokens,
    )
    sizes = bytes_of_tokens(prepared.validation, prepared.vocabulary)
    return evaluate(model, windows, sizes, device)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Steps taken in all and in this process, and this process's seconds of training."""

    n_steps: int
    n_steps_here: int
    seconds: float


def _set_up_process(point: Point, accelerator: str, n_threads: int | None) -> None:
    """Threads, seeds and malloc; everything that is global to the process."""
    if accelerator == "cpu":
        threads = point.config.trainer.n_threads or n_threads or environment.usable_cores()
        torch.set_num_threads(threads)
        environment.keep_freed_memory()
    random.seed(point.config.seed)
    np.random.seed(point.config.seed)
    torch.manual_seed(point.config.seed)
    torch.set_float32_matmul_precision("high")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def _fit(
    point: Point,
    module: LanguageModel,
    data: TokenDataModule,
    accelerator: str,
    precision: str,
    sinks: tuple[ProgressSink, ...],
) -> Fit:
    """Trains to the end of the plan, from the last checkpoint if there is one."""

    def also(row: dict[str, float]) -> None:
        for sink in sinks:
            sink(row)

    history = History(point.run_dir / "history.csv", point.config.logger.log_every_n_steps, also)
    trainer = pl.Trainer(
        max_steps=point.plan.n_steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]  # Lightning's Literal, checked before
        deterministic="warn" if accelerator == "cuda" else None,
        callbacks=[
            Consumed(),  # first: a checkpoint holds what the batches before it used
            history,
            Checkpoint(point.run_dir, point.config.trainer.checkpoint_minutes),
        ],
        plugins=[LightningEnvironment()],
        default_root_dir=point.run_dir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    checkpoint = point.run_dir / CHECKPOINT_NAME
    try:
        trainer.fit(module, data, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    return Fit(
        n_steps=trainer.global_step, n_steps_here=history.steps_here, seconds=history.seconds
    )


def _rates(point: Point, fit: Fit, accelerator: str, precision: str) -> dict[str, Any]:
    """Speeds of the steps taken in this process, and their share of the device's measured peak."""
    if not fit.n_steps_here:
        return {}
    tokens_per_second = fit.n_steps_here * point.plan.batch_tokens / fit.seconds
    flops_per_second = tokens_per_second * point.plan.cost.training_flops
    peak = environment.measured_peak_flops(accelerator, precision)
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": flops_per_second,
        "peak_flops_per_second": peak,
        "mfu": flops_per_second / peak,
    }


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
