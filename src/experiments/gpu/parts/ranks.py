"""Two cards that train one run: NCCL, and peak memory against the plan; needs its wheels."""

import sys

import torch

from experiments.gpu.goals import MEMORY_OF_PLAN
from experiments.gpu.harness import load_records, read_error, run_harness, runs_folder
from experiments.gpu.job import Job, LeftOut
from experiments.gpu.parts import harness

WORTH = 93
SECONDS = 60

_OVERRIDES = ("model=peer", *harness.OVERRIDES, "trainer.devices=2")
_TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run(job: Job) -> None:
    """Raises LeftOut with one card or without the harness's packages, RuntimeError if the run
    failed.
    """
    n_cards = torch.cuda.device_count()
    if n_cards < 2:
        raise LeftOut(f"{n_cards} cards here, and it takes two")
    folder, sweep = runs_folder(job), "ranks-2"
    words = [*_OVERRIDES, f"budget={harness.budget(_OVERRIDES):.6g}", f"sweep={sweep}"]
    code = run_harness(job, folder, words, _TORCHRUN)
    records = list(load_records(folder / sweep))
    record = records[0] if records else None
    if code or record is None or record.val_loss is None:
        why = "it left no record" if record is None else read_error(record)
        raise RuntimeError(f"two ranks: exit code {code}; {why}")
    job.add("two ranks: tokens/s", record.tokens_per_second or 0.0)
    job.add("two ranks: validation loss", record.val_loss, "nats/token")
    if record.peak_memory_bytes is not None:
        planned = harness.memory(_OVERRIDES)
        job.add(
            "two ranks: peak memory of the first over the plan's",
            record.peak_memory_bytes / planned,
            goal=MEMORY_OF_PLAN,
            note=f"{record.peak_memory_bytes / 2**30:.2f} GiB, planned {planned / 2**30:.2f}",
        )
