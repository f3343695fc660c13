"""README of a room: a benchmark and a part of gpu-check, each followed to the letter."""

import json

import pytest

from tests.extending import follow


@pytest.mark.night
def test_a_benchmark(tmp_path):
    out = follow("A benchmark", tmp_path)
    assert " A norm of the features of tokens: RMSNorm beside LayerNorm" in out
    assert "norms, d=64" in out
    assert "  RMSNorm " in out


def test_a_part_of_gpu_check(tmp_path):
    out = follow("A part of gpu-check", tmp_path)
    listed = out.partition("in this order:")[2].splitlines()[1:]
    parts = [line.split()[0] for line in listed if line.startswith("  ")]
    at = parts.index("attention")
    assert parts[at - 1 : at + 2] == ["kernels", "attention", "layer"]
    (report,) = (tmp_path / "cards").glob("*/report.json")
    (found,) = json.loads(report.read_text())["parts"]["attention"]["measurements"]
    assert found["met"]
