"""Card, driver, versions; rates of copies and products, which all floors are made of."""

import platform
import shutil
import subprocess
from importlib.util import find_spec

import torch

from experiments.benchmarks.core.rates import copy_rate, square_rate
from experiments.gpu.goals import data_sheet
from experiments.gpu.job import Job

WORTH = 100
SECONDS = 45

_ASKED = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.limit",
    "temperature.gpu",
)


def run(job: Job) -> None:
    """Notes and rates; the clocks before and after the products."""
    job.note(platform=platform.platform(), python=platform.python_version(), **_versions())
    if job.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        job.note(
            processors=card.multi_processor_count,
            memory_bytes=card.total_memory,
            capability=".".join(map(str, torch.cuda.get_device_capability())),
            bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        )
    job.note(nvidia_smi=_smi())
    job.add("copy, read and written", copy_rate(job.device) / 1e9, "GB/s")
    products(job)
    job.note(nvidia_smi_after=_smi())


def products(job: Job) -> None:
    """Square products, by type."""
    sheet = data_sheet(job.card)
    anchor = "" if sheet is None else f"data sheet: {sheet / 1e12:.0f}"
    rate = square_rate(job.device, torch.bfloat16)
    job.add("products in bfloat16", rate / 1e12, "TFLOP/s", anchor=anchor)
    for name, precision in (("TF32", "high"), ("float32", "highest")):
        torch.set_float32_matmul_precision(precision)
        job.add(f"products in {name}", square_rate(job.device, torch.float32) / 1e12, "TFLOP/s")


def _versions() -> dict[str, str | None]:
    triton = None
    if find_spec("triton") is not None:
        import triton as module

        triton = module.__version__
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton}


def _smi() -> dict[str, str]:
    """nvidia-smi's answer about the first card; nothing where it is not there or gives none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(_ASKED, (value.strip() for value in done.stdout.split(","))))
