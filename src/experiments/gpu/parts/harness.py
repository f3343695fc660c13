"""Some steps of the harness itself, by one worker and by two; needs its wheels.

Whether a run trains at all, before minutes go into kernels; and that each worker is on its own
card, where there are several.
"""

import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from experiments.gpu.goals import NONE_DIFFERS
from experiments.gpu.harness import DATA, load_records, read_error, run_harness, runs_folder
from experiments.gpu.job import Job

if TYPE_CHECKING:
    from experiments.points.point import Draft

WORTH = 97
SECONDS = 90

STEPS = 60  # of dense; so many that whole steps of another layer meet the budget too
OVERRIDES = (
    "size=4",
    "ladder.d_per_layer=64",
    "ladder.d_head=64",
    "ladder.batch_size=64",
    "trainer.compile=false",
    "data.n_eval_tokens=65536",
)
_LAYERS = ("dense", "peer")
_WORKERS = (1, 2)
_EVERY = 0.5  # seconds between looks at the card's processes


def budget(overrides: Sequence[str]) -> float:
    """Training FLOPs of STEPS steps of a run."""
    draft = _draft(overrides)
    tokens = draft.ranks.batch_size * draft.config.data.seq_len
    return STEPS * tokens * draft.cost.training_flops


def memory(overrides: Sequence[str]) -> int:
    """Bytes that a run's plan counts on a card, which does not hold the program."""
    from experiments.points.planning import make_plan  # of the harness's packages

    planned = make_plan(_draft([*overrides, f"budget={budget(overrides)}"])).memory
    return planned.total - planned.program


def _draft(overrides: Sequence[str]) -> "Draft":
    from experiments.benchmarks.core.drafts import drafted

    return drafted([*overrides, *DATA])


def run(job: Job) -> None:
    """Raises LeftOut without the harness's packages, RuntimeError if a run failed."""
    folder = runs_folder(job)
    for n in _WORKERS:
        sweep = f"workers-{n}"
        words = ["-m", f"model={','.join(_LAYERS)}", f"sweep={sweep}"]
        words += (
            ["size=1"]
            if job.toy
            else [*OVERRIDES, f"budget={budget(['model=dense', *OVERRIDES]):.6g}"]
        )
        words += [f"hydra.launcher.n_workers={n}", f"hydra.launcher.points_per_gpu={_shared(n)}"]
        with _processes_by_card() as seen:
            code = run_harness(job, folder, words)
        records = sorted(load_records(folder / sweep), key=lambda record: record.model)
        failed = [
            f"{record.model}: {read_error(record)}" for record in records if not record.val_loss
        ]
        if code or failed or len(records) != len(_LAYERS):
            raise RuntimeError(f"n_workers={n}: exit code {code}; {'; '.join(failed)}")
        for record in records:
            speed = record.tokens_per_second or 0.0
            device = record.environment["device"]
            job.add(f"n_workers={n}, {record.model}: tokens/s", speed, note=f"on {device}")
        cards = {card: len(pids) for card, pids in seen.items()}
        job.note(**{f"n_workers={n}: processes on each card": cards or "nvidia-smi shows none"})
        crowded = sum(max(0, n_on - _shared(n) - 1) for n_on in cards.values())
        job.add(f"n_workers={n}: processes on a card beyond its own", crowded, goal=NONE_DIFFERS)


def _shared(n_workers: int) -> int:
    """Workers that share a card."""
    return -(-n_workers // max(1, torch.cuda.device_count()))


@contextmanager
def _processes_by_card() -> Iterator[dict[str, set[str]]]:
    """Processes that nvidia-smi shows on each card meanwhile, this one among them."""
    program, seen = shutil.which("nvidia-smi"), defaultdict[str, set[str]](set)
    ended = threading.Event()

    def look() -> None:
        query = [str(program), "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader"]
        while not ended.wait(_EVERY):
            done = subprocess.run(query, capture_output=True, text=True, timeout=30)
            for line in done.stdout.splitlines():
                card, _, pid = line.partition(",")
                seen[card].add(pid.strip())

    thread = threading.Thread(target=look, daemon=True)
    if program is not None:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        if program is not None:
            thread.join()
