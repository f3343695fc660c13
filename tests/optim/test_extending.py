"""How-to of an optimizer in its room's README, followed to the letter."""

import json

import pytest

from tests.extending import follow


@pytest.mark.night
def test_the_how_to_of_an_optimizer_runs_to_the_letter(tmp_path):
    printed = follow("An optimizer", tmp_path)
    assert "optim.signum_momentum=1 must be below 1" in printed
    assert "optim.signum_momentum: unknown key; optim=signum has it" in printed
    assert " passed" in printed
    assert " failed" not in printed
    (record,) = (tmp_path / "results" / "signs").glob("*/record.json")
    values = json.loads(record.read_text())
    assert values["status"] == "done"
    assert values["config"]["optim"]["signum_momentum"] == 0.8
