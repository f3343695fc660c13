"""README of a room: a launcher, followed to the letter."""

import json

import pytest

from tests.extending import follow


@pytest.mark.night
def test_a_launcher(tmp_path):
    out = follow("A launcher", tmp_path)
    assert "sweep mine: 2 runs, one after another" in out
    assert "sweep mine: 2 points, 2 done" in out
    records = [json.loads(p.read_text()) for p in (tmp_path / "results/mine").glob("*/record.json")]
    assert {record["seed"] for record in records} == {0, 1}
    assert out.endswith("hydra/launcher, with -m: dask, inline, local, ray, slurm, workers\n")
