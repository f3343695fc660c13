"""Loader alone against training steps; takes overrides of experiments.run.

Compares, interleaved in one process, the tokens/s of the loader alone with those of training
steps of the same config; then tokenizes. The overrides are those of experiments.run; without any,
a dense model of one block, 16 wide: the highest token rate of those in docs/small-scale.md.
"""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any

import torch

from experiments.benchmarks.core.arguments import takes_overrides
from experiments.benchmarks.core.drafts import drafted
from experiments.benchmarks.core.loop import Loop
from experiments.data.batches import Batch
from experiments.data.corpus import TRAIN
from experiments.data.loader import Loader
from experiments.data.packing import encode
from experiments.data.prepare import PreparedData, prepare_data, training_batches
from experiments.optim.groups import build_optimizer
from experiments.points.building import build_model
from experiments.points.planning import plan_point
from experiments.points.point import Point
from experiments.system.environment import keep_freed_memory, usable_cores

SMALL = (  # one block of width 16: the model with the highest token rate of those measured here
    "model=dense",
    "size=1",
    "budget=2e11",
    "ladder.d_per_layer=16",
    "ladder.d_head=16",
    "ladder.seq_len=128",
    "data.n_eval_tokens=65536",
)
_ROUNDS = 7
_SECONDS = 1.0  # of each measurement
_TEXT_BYTES = 20_000_000


def arguments(parser: ArgumentParser) -> None:
    takes_overrides(parser)


def run(options: Namespace) -> None:
    """Prints a table of medians over rounds, with their range."""
    point = plan_point(drafted(options.overrides or SMALL))
    torch.set_num_threads(point.config.trainer.n_threads or usable_cores())
    keep_freed_memory()
    prepared = prepare_data(point.config.data, point.cache)
    print(f"{point.describe()}, {torch.get_num_threads()} threads")
    _compare(point, prepared)
    _tokenize(point, prepared)


def _compare(point: Point, prepared: PreparedData) -> None:
    """Loader alone, and training steps on one batch that never changes, in turn."""
    n_workers = point.config.trainer.n_loader_workers or 0
    batches = _batches(point, prepared, n_workers)
    step = _training_step(point, prepared, next(batches))
    loaded, trained = [], []
    for _ in range(_ROUNDS):
        loaded.append(_rate(lambda: next(batches)) * point.plan.batch_tokens)
        trained.append(_rate(step) * point.plan.batch_tokens)
    how = "streamed" if prepared.train is None else "packed"
    _print(f"loader alone, {how}, {n_workers} workers", loaded, "tokens/s")
    _print("training steps alone", trained, "tokens/s")
    _print("ratio", [a / b for a, b in zip(loaded, trained)], "x")


def _batches(point: Point, prepared: PreparedData, n_workers: int) -> Iterator[Batch]:
    config = point.config
    source = training_batches(
        config.data,
        prepared,
        point.cache,
        batch_size=config.ladder.batch_size,
        seed=config.seed,
    )
    return iter(Loader(source, n_workers))


def _training_step(point: Point, prepared: PreparedData, batch: Batch) -> Callable[[], object]:
    """A step without Lightning's own work: as fast as training could be."""
    model, config = build_model(point, prepared.vocabulary), point.config
    optimizer = build_optimizer(model, point.plan.lr, config.optim, config.kernel)
    once = (batch.inputs, batch.targets)
    return Loop(model, [[once]], optimizer, grad_clip=config.optim.grad_clip).step


def _rate(action: Callable[[], Any]) -> float:
    """Calls a second."""
    start, n = time.perf_counter(), 0
    while (now := time.perf_counter()) - start < _SECONDS:
        action()
        n += 1
    return n / (now - start)


def _tokenize(point: Point, prepared: PreparedData) -> None:
    """MB/s of tokenizing alone, and of what it yields in tokens/s."""
    texts, size = [], 0
    for text in islice(point.config.data.corpus.documents(TRAIN, point.cache), 10**6):
        texts.append(text)
        size += len(text.encode())
        if size >= _TEXT_BYTES:
            break
    bytes_rates, token_rates = [], []
    for _ in range(3):
        start = time.perf_counter()
        n_tokens = sum(len(tokens) for tokens, _ in encode(prepared.vocabulary, iter(texts)))
        seconds = time.perf_counter() - start
        bytes_rates.append(size / 1e6 / seconds)
        token_rates.append(n_tokens / seconds)
    _print(f"tokenizing {size / 1e6:.1f} MB", bytes_rates, "MB/s")
    _print("tokenizing", token_rates, "tokens/s")


def _print(what: str, values: list[float], unit: str) -> None:
    low, high = min(values), max(values)
    print(f"{what:<42} {median(values):>14,.1f} {unit:<9} ({low:,.1f} to {high:,.1f})")
