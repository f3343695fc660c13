"""A run's own cost of a step: what it takes beyond a bare loop on the same batches.

A run trains as `experiments.run` does, with its folder, history and checkpoints. After each row of
its history a bare loop of torch's calls takes as many steps of a copy of the model: forward,
backward, clip_grad_norm_, AdamW, zero_grad. Both in CPU time of this process, with one thread. The
run's own cost is its time less that of the loop. Takes overrides of experiments.run; without any,
sizes of the demo and of the study.
"""

import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from itertools import islice
from statistics import median

import torch

from experiments.benchmarks.core.arguments import (
    add_json,
    check_json,
    save_json,
    takes_overrides,
)
from experiments.benchmarks.core.drafts import drafted
from experiments.benchmarks.core.progress import bar
from experiments.data.batches import Batch
from experiments.data.loader import Loader
from experiments.data.prepare import training_batches
from experiments.points.planning import plan_point
from experiments.points.point import Point
from experiments.system import environment
from experiments.system.command import at_least
from experiments.system.text_table import aligned
from experiments.training.fit import fit, set_up_process
from experiments.training.module import LanguageModel
from experiments.training.starting import Begun, begin
from experiments.training.watchdog import Guards

_USUAL = {
    "demo, dense": ("experiment=demo", "size=2", "model=dense"),
    "demo, peer": ("experiment=demo", "size=2", "model=peer"),
    "study, dense": ("size=4", "model=dense"),
    "study, peer": ("size=4", "model=peer"),
}


def arguments(parser: ArgumentParser) -> None:
    takes_overrides(parser)
    parser.add_argument("--steps", type=at_least(1), default=200, metavar="N", help="(default 200)")
    add_json(parser)


def run(options: Namespace) -> None:
    """Prints a line for each model, and writes --json."""
    check_json(options)
    usual = {"the run": options.overrides} if options.overrides else _USUAL
    rows: list[Sequence[str]] = [
        ("microseconds of a step", "run", "bare loop", "own cost", "of the run")
    ]
    models = []
    with tempfile.TemporaryDirectory() as folder:
        points = {name: _point(given, options.steps, folder) for name, given in usual.items()}
        for name, point in points.items():
            whole, bare = _compare(point, name)
            own = median(a - b for a, b in zip(whole, bare, strict=True))
            times = (median(whole), median(bare), own)
            rows.append((name, *(f"{1e6 * s:,.0f}" for s in times), f"{own / times[0]:.1%}"))
            models.append({"name": name, "run_seconds": whole, "bare_seconds": bare})
    print("\n".join(aligned(rows)))
    about = {"processor": environment.processor(), **environment.describe("cpu")}
    save_json(options, {"arguments": options.words, **about, "models": models})


def _point(overrides: Sequence[str], n_steps: int, folder: str) -> Point:
    """A point of so many steps. Raises ValueError for fewer than three rows of history."""
    fixed = (
        *overrides,
        "logger=csv",
        "trainer.n_threads=1",
        "trainer.accelerator=cpu",
        f"paths.results={folder}",
    )
    usual = plan_point(drafted((*fixed, "budget=1e12")))
    every = usual.config.logger.log_every_n_steps
    if n_steps < 3 * every:
        raise ValueError(
            f"--steps {n_steps} is less than three rows of logger.log_every_n_steps={every}; "
            f"give {3 * every} or more"
        )
    budget = n_steps * usual.plan.batch_tokens * usual.plan.cost.training_flops
    return plan_point(drafted((*fixed, f"budget={budget}")))


def _compare(point: Point, name: str) -> tuple[list[float], list[float]]:
    """CPU seconds of a step, for each row but the first: of the run, and of the bare loop."""
    environment.flush_denormals(True)
    set_up_process(point, 1)
    point.run_dir.mkdir(parents=True)
    begun = begin(point, scores=False)
    every = point.config.logger.log_every_n_steps
    step = _bare_step(point, deepcopy(begun.module), _batches(point, begun))
    whole, bare = [], []
    with bar(point.plan.n_steps, name) as shown:
        began = time.process_time()

        def loop(row: dict[str, float]) -> None:
            """After every row of the run."""
            nonlocal began
            whole.append((time.process_time() - began) / every)
            bare.append(step(every))
            shown.update(every)
            began = time.process_time()

        fit(point, begun, (loop,), Guards())
    return whole[1:], bare[1:]


def _batches(point: Point, begun: Begun) -> Iterator[Batch]:
    config = point.config
    source = training_batches(
        config.data,
        begun.prepared,
        point.cache,
        batch_size=config.ladder.batch_size,
        seed=config.seed,
    )
    return iter(Loader(source, 0))


def _bare_step(
    point: Point, module: LanguageModel, batches: Iterator[Batch]
) -> Callable[[int], float]:
    """Takes steps; returns the mean CPU seconds of one. Batches are made before."""
    clip = point.config.optim.grad_clip
    parameters = list(module.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=point.plan.lr / 10, fused=True)
    mixed = point.device.precision == "bf16-mixed"

    def step(n_steps: int) -> float:
        made = list(islice(batches, n_steps))
        began = time.process_time()
        for batch in made:
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss, _ = module.losses(batch)
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            optimizer.zero_grad()
        return (time.process_time() - began) / n_steps

    return step
