"""Table optimizers, and the search for product keys."""

from experiments.benchmarks import optimizer, retrieval
from experiments.benchmarks.core.rates import copy_rate
from experiments.benchmarks.core.report import printed
from experiments.gpu.job import Job
from experiments.gpu.parts.layer import make_shape, settings

WORTH = 30
SECONDS = 60


def run(job: Job) -> None:
    """`bench retrieval` and `bench optimizer` at the shape of the goals."""
    shapes, how, copy = [make_shape(job)], settings(job, rounds=3), copy_rate(job.device)
    (search,) = printed(retrieval.sections(shapes, how))
    for contender in search.as_json()["contenders"]:
        job.add(
            f"search, {contender['name']}",
            1e3 * contender["median_seconds"],
            "ms",
            note=""
            if contender["times_faster"] is None
            else f"{contender['times_faster']:.3g} times faster than {contender['baseline']}",
        )
    (step,) = printed(optimizer.sections(shapes, how))
    for contender in step.as_json()["contenders"]:
        rate = 1e9 * contender["columns"]["GB/s"]
        job.add(
            f"one table's step, {contender['name']}: share of a copy's rate",
            rate / copy,
            note=f"{1e3 * contender['median_seconds']:.4g} ms",
        )
