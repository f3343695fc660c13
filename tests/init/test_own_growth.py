"""A layer of one's own that starts from another and grows: files that are found by themselves."""

import json

import pytest

from tests.extending import follow
from tests.rounding import relative


@pytest.mark.night
def test_the_how_to_of_a_layer_that_grows_runs_to_the_letter(tmp_path):
    printed = follow("A layer that starts from another, and grows", tmp_path)
    few, more, most = (
        json.loads(next((tmp_path / "results" / sweep).glob("*/record.json")).read_text())
        for sweep in ("few", "more", "most")
    )
    for before, after in ((few, more), (more, most)):
        start = after["before"]["validation"]["loss"]
        assert start == pytest.approx(before["val_loss"], rel=relative(1))
        assert after["val_loss"] != start
    assert most["init"]["moments"]
    assert "how='bias' is no way in which Gated grows; set how=copies" in printed
    assert "and not PEER of Dense; set init.how=beside" in printed
    assert "n_experts=64 with init.how=units" in printed
    assert "set n_experts=128" in printed
