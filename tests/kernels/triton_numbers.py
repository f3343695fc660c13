"""Compiles the Triton kernels for a card that isn't here: a process that test_triton_numbers.py
starts, for a process has one kind of Triton.

    python triton_numbers.py CAPABILITY      e.g. 90; prints a JSON list, an object a variant
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from experiments.gpu.adamw_checks import make_step
from experiments.kernels.triton_grouped import product, weights_gradient
from experiments.kernels.triton_kernel import Triton, why_not

TYPES = (torch.float32, torch.bfloat16)
WIDTHS = (64, 256, 1000, 1024, 1536, 2048, 576)
SEARCHES = ((1024, 16), (1024, 32), (4096, 16), (512, 32), (1000, 16))  # sub-keys of a half, top_k
N, TOKENS, COLUMNS = 2048, 16, 128  # rows; more pairs than a chunk has


class Card:
    """Answers what Triton asks of a driver while it compiles."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


def numbers_of(compiled):
    """Registers of a thread, bytes it spills, bytes shared; loads by their width in bytes."""
    (tool,) = Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        done = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    used = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", done.stdout))
    loads = {}
    for many, bits in re.findall(r"ld\.global\S*?(?:\.v(\d))?\.b(\d+)\s", compiled.asm["ptx"]):
        width = int(many or 1) * int(bits) // 8
        loads[width] = loads.get(width, 0) + 1
    return {
        "registers": int(used["REG"]),
        "spilled": int(used["STACK"]) + int(used["LOCAL"]),
        "shared": compiled.metadata.shared,
        "warps": compiled.metadata.num_warps,
        "loads": loads,
    }


def compile_all():
    """Calls every method at the shapes above."""
    kernel = Triton()
    idx = torch.arange(TOKENS * COLUMNS).view(TOKENS, COLUMNS) % N
    weights = torch.ones(TOKENS, COLUMNS)
    segments = kernel.sort(idx, N)
    for width in WIDTHS:
        for dtype in TYPES:
            case(f"D={width} {dtype}")
            x, table = torch.ones(TOKENS, width), torch.ones(N, width, dtype=dtype)
            kernel.dot(x, table, idx)
            kernel.weighted_sum(table, idx, weights)
            kernel.table_sums(x, segments, weights, dtype)
            gradient = kernel.row_sums(x, segments, weights, dtype)
            for of_moments in {torch.float32, dtype}:
                case(f"D={width} {dtype}, moments {of_moments}")
                moments = [torch.zeros(N, width, dtype=of_moments) for _ in range(2)]
                kernel.row_adamw(table, moments, segments.rows, gradient, make_step())
                kernel.row_adamw_of_sums(table, moments, x, segments, weights, make_step())
    for n_sub, top_k in SEARCHES:
        case(f"S={n_sub} k={top_k}")
        kernel.search(torch.ones(4, 8, 2, 128), torch.ones(1, 2 * n_sub, 128), n_sub, top_k, None)
    for dtype in TYPES:
        case(f"D=1024 F=512 {dtype}")
        x, grad = torch.ones(4096, 1024, dtype=dtype), torch.ones(4096, 512, dtype=dtype)
        ends = torch.arange(512, 4097, 512)
        product(x, torch.ones(8, 1024, 512, dtype=dtype), ends)
        product(grad, torch.ones(8, 1024, 512, dtype=dtype).transpose(1, 2), ends)
        weights_gradient(x, grad, ends)


found, label = [], [""]


def case(name):
    """Collects what is compiled from now on."""
    label[:] = [name]


def main():
    driver.set_active(Card(int(sys.argv[1])))
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        compiled = run(self, *args, grid=grid, warmup=True, **options)
        found.append({"kernel": self.__name__, "case": label[0], **numbers_of(compiled)})

    JITFunction.run = compile_only
    assert "TRITON_INTERPRET=1" in why_not("cpu")
    assert why_not("cuda") is None
    compile_all()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
