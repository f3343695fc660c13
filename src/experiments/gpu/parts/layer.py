"""One PEER and one PKM layer against their floor; gathers."""

from collections.abc import Mapping
from typing import Any

import torch

from experiments.benchmarks import layer
from experiments.benchmarks.core.rates import copy_rate, gather_rates
from experiments.benchmarks.core.report import printed
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.gpu import toy
from experiments.gpu.goals import (
    GATHER_SHARE,
    LAYER_FLOOR,
    LAYER_OVER_FLOOR,
    LAYER_OVER_RIVAL,
    OPTIMIZER_FLOORS,
)
from experiments.gpu.job import Job
from experiments.kernels.select import resolve_kernel

WORTH = 80
SECONDS = 75

SHAPE = Shape(d_model=1024, n_experts=1024**2, n_tokens=16384, n_heads=8, top_k=16, d_key=128)
WIDTHS = (16, 32, 64, 128, 256, 512, 1024)  # of tables cut by columns
_RIVALS = ("PEER-pytorch", "naive")


def make_shape(job: Job) -> Shape:
    """Shape of the layer and its input."""
    return toy.SHAPE if job.toy else SHAPE


def settings(job: Job, rounds: int = 5) -> Settings:
    """Settings for the measurements of benchmarks/: tables in bfloat16."""
    return Settings(
        device=job.device,
        rounds=1 if job.toy else rounds,
        kernels=(job.kernel,),
        huge_pages=False,
        table_dtype=torch.bfloat16,
    )


def run(job: Job) -> None:
    """Forward and backward, then with AdamW of both tables, then the gathers alone."""
    copy = copy_rate(job.device)
    sections = layer.sections([make_shape(job)], settings(job), with_optimizer=True)
    passes, steps = (section.as_json() for section in printed(sections))
    _add_passes(job, passes, copy)
    for contender in steps["contenders"]:
        job.add(
            f"{contender['name']}: forward, backward and AdamW of both tables",
            1e3 * contender["median_seconds"],
            "ms",
            anchor=OPTIMIZER_FLOORS,
        )
    _gathers(job, copy)


def _add_passes(job: Job, passes: Mapping[str, Any], copy: float) -> None:
    seconds = {c["name"]: c["median_seconds"] for c in passes["contenders"]}
    job.note(rates=passes["rates"], distinct_experts=passes["n_distinct"])
    rows = f"{job.kernel} rows"
    for name, median in seconds.items():
        family = "PKM" if name.startswith("PKM") else "PEER"
        job.add(f"{name}: forward + backward", 1e3 * median, "ms")
        if name in (rows, f"PKM {rows}"):
            floor = _floor(passes["floors"][family][0], passes["rates"], copy)
            job.add(
                f"{family}, rows: time over its floor",
                median / floor,
                goal=LAYER_OVER_FLOOR,
                anchor=LAYER_FLOOR if family == "PEER" else "",
                note=f"the floor is {1e3 * floor:.3g} ms at the measured rates of copies and "
                "square products",
            )
    rival = next((name for name in _RIVALS if name in seconds), None)
    if rival is not None and rows in seconds:
        speed = seconds[rival] / seconds[rows]
        job.add(f"PEER, rows: times faster than {rival}", speed, goal=LAYER_OVER_RIVAL)


def _floor(floor: Mapping[str, Any], rates: Mapping[str, Any], copy: float) -> float:
    """Seconds: bytes at a copy's rate, which our gathers have no part in, and products."""
    products = floor["query_flops"] / rates["square"] + floor["keys_flops"] / rates["square_keys"]
    return floor["n_bytes"] / copy + products


def _gathers(job: Job, copy: float) -> None:
    """Rows of each width, at the same number of pairs."""
    shape = make_shape(job)
    kernel = resolve_kernel(job.kernel, job.device, torch.bfloat16)
    assert kernel is not None
    for width in WIDTHS[:2] if job.toy else reversed(WIDTHS):
        table = torch.randn(shape.n_experts, width, device=job.device).to(torch.bfloat16)
        for name, rate in gather_rates(shape, table, kernel, job.device).items():
            job.add(
                f"gather, {name}, width {width}: share of a copy's rate",
                rate / copy,
                goal=GATHER_SHARE if width == WIDTHS[-1] else None,
                note=f"{rate / 1e9:,.0f} GB/s of rows, table of {table.nbytes / 2**20:,.0f} MiB",
            )
