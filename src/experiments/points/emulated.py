"""Runs that would compute in bfloat16 on a processor that has none."""

import platform
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch

from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.models.fused import eager_parts, why_not_fused
from experiments.models.transformer import TransformerConfig
from experiments.points.memory import list_shapes
from experiments.points.point import Point


def emulation_lines(points: Sequence[Point]) -> list[str]:
    """A line of the plan about such runs, with the remedy; [] of none."""
    slow = [point for point in points if emulates(point)]
    if not slow or computes_bf16():
        return []
    remedy = "set trainer.precision=32-true"
    if any(point.config.trainer.trunk == "eager" for point in slow) and why_not_fused() is None:
        remedy += ", or trainer.trunk=auto, whose fused parts round as fast"
    return [
        "",
        f"warning: {len(slow)} of {len(points)} runs compute bfloat16 outside of the fused trunk, "
        f"and this processor emulates that, about ten times slower than float32; {remedy}",
    ]


def computes_bf16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 itself: AVX512-BF16, AMX, or no x86."""
    cpu = _capabilities()
    is_x86 = str(cpu.get("architecture", "")).startswith("x86")
    return not is_x86 or bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))


def _capabilities() -> Mapping[str, object]:
    if hasattr(torch.cpu, "get_capabilities"):
        return torch.cpu.get_capabilities()
    return {  # torch 2.9
        "architecture": platform.machine(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx_bf16": torch.cpu._is_amx_tile_supported(),
    }


def emulates(point: Point) -> bool:
    """Whether a run has products in bfloat16 that torch makes on a CPU: all of them of an eager
    trunk, or those of the parts that have no fused form.
    """
    if point.device.accelerator != "cpu" or point.device.precision != "bf16-mixed":
        return False
    trainer = point.config.trainer
    if trainer.trunk == "eager" or trainer.compile is True or trainer.recompute:
        return True
    if why_not_fused() is not None:
        return True
    return _has_eager_parts(point.transformer, point.config.kernel)


@lru_cache(maxsize=256)
def _has_eager_parts(transformer: TransformerConfig, kernel: KernelName) -> bool:
    model = list_shapes(transformer)
    model.set_execution(Execution(kernel=kernel))
    return bool(eager_parts(model))
