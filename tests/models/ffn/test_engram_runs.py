"""Engram through the commands: a tiny run over documents, and what goes on from it."""

import pytest

from tests.models.ffn.lives import (
    assert_a_broken_run_goes_on_to_the_bit,
    assert_text_goes_on_as_without_a_cache,
    by_the_command,
    child_of,
)

LAYER = ("model=engram", "n_experts=512", "model.d_row=8", "data.mask_documents=true")
FUSED = ("optim.table_gradient=fused", "optim.grad_clip=null")


def test_a_run_learns_goes_on_as_text_and_starts_beside_another(run, compose_raw, tmp_path):
    run_dir, before = by_the_command(run, tmp_path, *LAYER)
    assert 0 < before.usage <= 1
    assert_text_goes_on_as_without_a_cache(run_dir)
    way = ("trunk.ffn_blocks=[1]", "init.how=beside", "init.train=tables")
    beside = child_of(compose_raw, run_dir, *LAYER, *way)
    assert beside.init["exact"] is True
    assert beside.before["validation"]["loss"] == before.val_loss
    assert beside.val_loss < before.val_loss


@pytest.mark.parametrize(
    "way", [pytest.param((), id="dense", marks=pytest.mark.night), pytest.param(FUSED, id="fused")]
)
def test_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, way):
    fixed = ("budget=1e9", *LAYER, *way)
    assert_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, *fixed)
