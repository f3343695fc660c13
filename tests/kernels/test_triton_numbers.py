"""Triton kernels compiled: spills and narrow loads show without a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("triton_numbers.py")
CARDS = {"A100": 80, "H100": 90, "B200": 100}
# a thread's registers at most: what the compilers of Triton 3.5 to 3.9 need, and a few
REGISTERS = {
    "dot_kernel": 160,
    "weighted_sum_kernel": 72,
    "chunks_kernel": 72,
    "sums_kernel": 80,
    "step_kernel": 72,
    "step_of_sums_kernel": 88,
    "best_kernel": 96,
    "best_pairs_kernel": 40,
    "grouped_kernel": 255,
    "grouped_weights_kernel": 136,
}
SPILLED = {"chunks_kernel": 8}  # bytes: one number, kept over the loop and not in it
SHARED = {"grouped_kernel": 2**16, "grouped_weights_kernel": 2**16}  # bytes; of the others 4096
ROWS = ("dot", "weighted_sum", "chunks", "sums", "step", "step_of_sums", "best")


@pytest.fixture(
    scope="module",
    params=[n if n == "H100" else pytest.param(n, marks=pytest.mark.night) for n in CARDS],
)
def variants(request, tmp_path_factory):
    """Every kernel at every shape, compiled for a card; at night for all."""
    pytest.importorskip("triton")
    cache = tmp_path_factory.mktemp("triton")
    done = subprocess.run(
        [sys.executable, CHILD, str(CARDS[request.param])],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.night
def test_variants_fit_their_card(variants):
    assert {v["kernel"] for v in variants} == set(REGISTERS)
    for variant in variants:
        kernel = variant["kernel"]
        assert variant["spilled"] <= SPILLED.get(kernel, 0), variant
        assert variant["registers"] <= REGISTERS[kernel], variant
        assert variant["shared"] <= SHARED.get(kernel, 4096), variant


@pytest.mark.night
def test_rows_are_read_16_bytes_at_a_time(variants):
    """Whatever their width; 64 columns of one row are 8 bytes a lane of a warp."""
    for variant in variants:
        if variant["kernel"].removesuffix("_kernel") in ROWS:
            loads = {int(width): n for width, n in variant["loads"].items()}
            assert max(loads) >= (8 if "D=64 " in variant["case"] else 16), variant
            # of a pair its place and weight; of a row its number and where its pairs are
            assert sum(n for width, n in loads.items() if width < 8) <= 12, variant
