"""What a table costs beside its layer: the search for product keys, and a step of its rows."""

import torch

from experiments.benchmarks import optimizer, retrieval
from experiments.benchmarks.rates import copy_rate
from experiments.benchmarks.tables import Report
from experiments.gpu.job import Job
from experiments.gpu.layer import SHAPE, TOY, settings


def run(job: Job) -> None:
    """`bench retrieval` and `bench optimizer` at the shape of the goals."""
    torch.set_float32_matmul_precision("high")
    shape, copy = (TOY if job.toy else SHAPE), copy_rate(job.device)
    report = Report()
    retrieval.run([shape], settings(job, rounds=3), report)
    for contender in report.sections[0]["contenders"]:
        job.add(
            f"search, {contender['name']}",
            1e3 * contender["median_seconds"],
            "ms",
            note=""
            if contender["times_faster"] is None
            else f"{contender['times_faster']:.3g} times faster than {contender['baseline']}",
        )
    optimizer.run([shape], settings(job, rounds=3), report)
    for contender in report.sections[1]["contenders"]:
        rate = 1e9 * contender["columns"]["GB/s"]
        job.add(
            f"one table's step, {contender['name']}: share of a copy's rate",
            rate / copy,
            note=f"{1e3 * contender['median_seconds']:.4g} ms",
        )
