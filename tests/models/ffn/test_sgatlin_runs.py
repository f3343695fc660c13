"""Sgatlin through the commands: a tiny run, what is made of it, and what is refused."""

import pytest

from tests.conftest import TINY
from tests.models.ffn.lives import (
    assert_a_broken_run_goes_on_to_the_bit,
    assert_text_goes_on_as_without_a_cache,
    by_the_command,
    child_of,
    exported_as_it_is,
)
from tests.training.test_table_gradient import WAYS

# 4 channels and the rest of conf/ladder_model/cpu_sgatlin.yaml
LAYER = ("model=sgatlin", "n_experts=64", "model.top_k=4")


@pytest.mark.usefixtures("hub_modules")
def test_a_run_goes_on_as_text_leaves_and_grows(run, compose_raw, tmp_path, monkeypatch):
    run_dir, record = by_the_command(run, tmp_path, *LAYER)
    assert 0 < record.usage <= 1
    assert record.causal_eval
    assert_text_goes_on_as_without_a_cache(run_dir)

    theirs = exported_as_it_is(run_dir, tmp_path, monkeypatch)
    assert type(theirs.blocks[0].ffn).__module__.endswith(".sgatlin")

    grown = child_of(compose_raw, run_dir, "init.how=bias", "init.train=all", "n_experts=256")
    assert (grown.n_experts, grown.init["moments"]) == (256, True)
    assert grown.before["validation"]["loss"] == record.val_loss
    beside = child_of(
        compose_raw, run_dir, *LAYER, "trunk.ffn_blocks=[1]", "init.how=beside", "init.train=tables"
    )
    assert beside.init["exact"] is True
    assert beside.before["validation"]["loss"] == record.val_loss
    assert beside.val_loss < record.val_loss


@pytest.mark.parametrize("way", WAYS)
def test_learns_and_goes_on_to_the_bit_however_its_tables_step(compose_raw, tmp_path, way):
    fixed = ("budget=2e9", *LAYER, *WAYS[way])
    assert_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, *fixed, at=20)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("n_experts=1000", "n_experts=1000 must be 4 times a perfect square; nearest: 900, 1024"),
        ("model.top_k=100", "model.top_k=100 must be at most n_experts=64, 16 for each of 4"),
        ("model.activation=tanh", "model.activation='tanh' is not one of gelu, gelu_tanh, relu"),
        ("model.n_channels=0", "model.n_channels=0 must be at least 1"),
        ("trainer.trunk=fused", "Sgatlin: channels share a query, and gates are inside"),
    ],
)
def test_what_it_cannot_be_is_one_line_before_compute(run, word, line):
    code, out, err = run("budget=2e9", "size=2", *LAYER, *TINY, word)
    assert code == 2
    assert line in err
    assert len(err.strip().splitlines()) == 1
    assert "val_loss" not in out
