"""docs/extending.md: a launcher, followed to the letter."""

import json

import pytest

from tests.extending import follow, run_block


@pytest.mark.long
def test_a_launcher(tmp_path):
    out = follow("A launcher", tmp_path)
    assert "sweep mine: 2 runs, one after another" in out
    assert "sweep mine: 2 points: 2 done" in out
    records = [json.loads(p.read_text()) for p in (tmp_path / "results/mine").glob("*/record.json")]
    assert {record["seed"] for record in records} == {0, 1}
    asked = "python -m experiments.run hydra/launcher=x 2>&1 || :"
    assert "inline, local, slurm" in run_block(asked, tmp_path)
