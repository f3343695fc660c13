"""A part of one's own: one file and one yaml, and it is everywhere."""

import json

import pytest

from tests.extending import follow


@pytest.mark.night
def test_the_how_to_of_a_part_runs_to_the_letter(tmp_path):
    printed = follow("A part of a run", tmp_path)
    assert "Noise on weights:" in printed
    assert "0.02 every 5 steps" in printed
    assert "parts.weight_noise.size=-1 must be above 0" in printed
    assert "parts.weight_noise.size=0.02 with optim.table_gradient=fused" in printed
    (record,) = (tmp_path / "results" / "noisy").glob("*/record.json")
    values = json.loads(record.read_text())
    assert values["parts"]["weight_noise"] == {"size": 0.02, "n_times": values["n_steps"] // 20}
