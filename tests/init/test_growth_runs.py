"""Runs that go on from a finished run with more experts."""

import pytest
import torch

from experiments.finished.model import read_finished
from experiments.records.record import flat_row
from experiments.sweep.planning import plan_points
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import Killed, kill_at
from tests.init.conftest import finish, weights_of
from tests.rounding import relative


@pytest.fixture
def child(child):
    return lambda name, *overrides, **how: child(name, "budget=1e9", *overrides, **how)


EACH = ("trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")


def last_of(point):
    return torch.load(point.run_dir / LAST)


@pytest.mark.parametrize("name", ["peer", pytest.param("pkm", marks=pytest.mark.long)])
def test_a_run_grown_by_bias_starts_as_its_parent_and_says_what_both_cost(name, parent, child):
    _, before = parent(name)
    point = child(name, "n_experts=512", "init.how=bias", "init.train=all")
    assert point.config.model_name == name
    assert point.config.model.key_sets == (64, 8)
    record = finish(point)
    assert (before.n_experts, record.n_experts) == (64, 512)
    assert record.before["validation"]["loss"] == before.val_loss
    assert record.init["parent"]["run_id"] == before.run_id
    assert record.init["parent"]["flops"] == before.achieved_flops
    assert record.init["moments"]
    assert record.init["late"]["0"] > 0
    assert record.usage * 512 > 64, "new experts are used in the end"
    assert flat_row(record)["init.parent.flops"] == before.achieved_flops


def test_a_run_taken_up_again_while_keys_are_let_in_is_the_run_that_was_not_stopped(child):
    overrides = ("n_experts=512", "init.how=bias", "init.train=all", "init.anneal=1.0", *EACH)
    whole = child("peer", *overrides)
    execute(whole)
    stopped = child("peer", *overrides, folder="stopped")
    with pytest.raises(Killed):
        execute(stopped, kill_at(whole.plan.n_steps // 2))
    record = execute(stopped)
    ends = weights_of(whole), weights_of(stopped)
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    assert record.before["validation"]["loss"] == execute(whole).before["validation"]["loss"]


def test_a_run_goes_on_with_its_parents_moments(parent, child):
    """A step of almost no size: what the optimizer holds of old rows is nearly what it held."""
    point = child("peer", "n_experts=128", "init.how=bias", "init.train=all", "optim.lr=1e-12")
    execute(point)
    before = last_of(parent("peer")[0])["optimizer_states"][0]["state"]
    after = last_of(point)["optimizer_states"][0]["state"]
    n_steps = point.plan.n_steps
    assert len(before) == len(after)
    for i, state in before.items():
        assert after[i]["step"] == state["step"] + n_steps
        assert after[i]["exp_avg_sq"].shape[-1] == state["exp_avg_sq"].shape[-1]


@pytest.mark.levels
@pytest.mark.parametrize(
    ("name", "n_experts"),
    [("peer", 128), ("moe", 24), pytest.param("moe_two", 16, marks=pytest.mark.long)],
)
def test_a_run_grown_by_copies_starts_as_its_parent_to_rounding(name, n_experts, parent, child):
    overrides = (f"n_experts={n_experts}", "init.how=copies", "init.train=all")
    record, before = finish(child(name, *overrides)), parent(name)[1].val_loss
    assert record.before["validation"]["loss"] == pytest.approx(before, rel=relative(1))
    assert record.n_experts == n_experts


def test_a_grown_run_can_be_scored_loaded_and_grown_again(child):
    once = child("peer", "n_experts=128", "init.how=bias", "init.train=all")
    first = execute(once)
    _, _, model = read_finished(once.run_dir, [f"paths.cache={once.cache}"])
    assert model.blocks[0].ffn.n_experts == 128
    assert model.blocks[0].ffn.late is None
    twice = child(once.run_dir, "n_experts=512", "init.how=bias", "init.train=all", folder="again")
    second = execute(twice)
    assert second.before["validation"]["loss"] == first.val_loss
    total = first.achieved_flops + first.init["parent"]["flops"]
    assert second.init["parent"]["flops"] == pytest.approx(total)


def test_points_of_a_sweep_are_told_apart_by_the_place_of_their_weights(child, parent):
    raws = [child(name, "n_experts=512", "init.how=bias").raw for name in ("peer", "other")]
    first, second = plan_points(raws)
    path = parent("other")[0].run_dir
    assert second.setting == f" path={path}"
    assert first.describe() != second.describe()
