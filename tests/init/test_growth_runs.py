"""Runs that go on from a finished run with more experts."""

import re

import pytest
import torch

from experiments.finished.model import read_finished
from experiments.points.planning import make_point
from experiments.records.record import flat_row
from experiments.sweep.planning import plan_points
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import TINY, Killed, kill_at
from tests.rounding import relative

SHAPE = ("ladder.d_per_layer", "ladder.d_head", "ladder.vocab_size")  # the weights say these
ROOMS = tuple(o for o in TINY if not o.startswith(SHAPE))
KEYS = ("n_experts=64", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
PARENTS = {
    "peer": ("model=peer", *KEYS),
    "pkm": ("model=pkm", *KEYS, "model.share_keys=false"),
    "moe": ("model=moe_fine", "n_experts=8", "model.top_k=1"),
    "moe_two": ("model=moe_fine", "n_experts=8", "model.top_k=2", "model.glu=true"),
    "dense": (),
    "other": ("model=peer", *KEYS, "seed=1"),
}


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("growth")


@pytest.fixture(scope="module")
def parent(compose_raw, top):
    """parent("peer"): the point of a finished run."""
    made = {}

    def make(name):
        if name not in made:
            paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
            point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *paths, *PARENTS[name]))
            made[name] = point, execute(point)
        return made[name]

    return make


@pytest.fixture
def child(compose_raw, parent, top, tmp_path):
    """child("peer", ...): the point of a run that starts from that parent, or from a folder."""

    def make(name, *overrides, folder="children"):
        path = parent(name)[0].run_dir if name in PARENTS else name
        return make_point(
            compose_raw(
                "init=run",
                f"init.path={path}",
                "budget=1.0e9",
                *ROOMS,
                f"paths.results={tmp_path / folder}",
                f"paths.cache={top / 'cache'}",
                *overrides,
            )
        )

    return make


EACH = ("trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")


def last_of(point):
    return torch.load(point.run_dir / LAST)


@pytest.mark.parametrize("name", ["peer", pytest.param("pkm", marks=pytest.mark.long)])
def test_a_run_grown_by_bias_starts_as_its_parent_and_says_what_both_cost(name, parent, child):
    _, before = parent(name)
    point = child(name, "n_experts=512", "init.how=bias", "init.train=all")
    assert point.config.model_name == name
    assert point.config.model.key_sets == (64, 8)
    record = execute(point)
    assert record.status == "done", record.error
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
    ends = last_of(whole)["state_dict"], last_of(stopped)["state_dict"]
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
    record = execute(child(name, *overrides))
    assert record.status == "done", record.error
    assert record.before["validation"]["loss"] == pytest.approx(
        parent(name)[1].val_loss, rel=relative(1)
    )
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


@pytest.mark.parametrize(
    ("name", "overrides", "why"),
    [
        ("peer", ("n_experts=64", "init.how=bias"), "n_experts=64 is not more than the 64"),
        ("peer", ("n_experts=100", "init.how=bias"), "must be a multiple of 8"),
        ("peer", ("init.how=bias",), "init.how=bias wants to know how many experts"),
        ("dense", ("n_experts=64", "init.how=bias"), "Dense has no experts"),
        ("moe", ("n_experts=16", "init.how=bias"), "how='bias' is no way in which MoE grows"),
        ("moe", ("n_experts=12", "init.how=copies"), "n_experts=12 must be a multiple of 8"),
        ("peer", ("n_experts=128", "init.how=bias", "init.anneal=1.5"), "init.anneal=1.5"),
        (
            "peer",
            ("n_experts=128", "init.how=bias", "+model.top_k=3"),
            "model.top_k=3 with init.how",
        ),
        ("peer", ("n_experts=128", "init.how=copies", "+model.n_heads=3"), "model.n_heads=3 with"),
        ("peer", ("n_experts=128", "init.how=bias", "model=pkm"), "model=pkm with init.how=bias"),
        ("peer", ("n_experts=128", "init.how=bias", "+model.n_experts=256"), "n_experts=256 with"),
        ("peer", ("n_experts=1e3", "init.how=bias"), "n_experts=1000 must be of type int"),
        ("peer", ("n_experts=0", "init.how=bias"), "n_experts=0 must be at least 1"),
    ],
)
def test_growth_that_can_not_be_is_refused_in_one_line(name, overrides, why, child):
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        child(name, *overrides)
    assert "\n" not in str(caught.value)


def test_points_of_a_sweep_are_told_apart_by_the_place_of_their_weights(child, parent):
    raws = [child(name, "n_experts=512", "init.how=bias").raw for name in ("peer", "other")]
    first, second = plan_points(raws)
    path = parent("other")[0].run_dir
    assert second.setting == f" path={path}"
    assert first.describe() != second.describe()
