"""Runs that learn domains one after another, and what they keep."""

import copy
import re

import pytest
import torch

from experiments.language.plan_table import plan_table
from experiments.points.planning import make_point
from experiments.training.execute import execute
from tests.conftest import Killed, kill_at
from tests.init.conftest import STARTED, weights_of
from tests.rounding import relative
from tests.training.domains import DOMAINS, stream

ROOMS = tuple(o for o in STARTED if "data.corpus" not in o)
PEER = ("model=peer", "n_experts=256", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
ORDER = ("sea", "farm")


@pytest.fixture(scope="module")
def parent(once):
    """parent("peer"): a finished run on the base corpus, with PEER or without, and its record."""
    norm = (*PEER, "model.query_norm=layer")
    return lambda name: once("budget=4e9", *(norm if name == "peer" else ()))


@pytest.fixture
def child(compose_raw, parent, tmp_path):
    """child(*overrides, corpus=): the point of a run that goes on from the parent with a stream."""

    def make(*overrides, corpus=None, name="peer", folder="children"):
        of_parent, _ = parent(name)
        raw = compose_raw(
            "data=stream", "init=run", f"init.path={of_parent.run_dir}", "init.how=keep",
            "init.train=all", "budget=6e9", "ladder.lr_d_model=32", "ladder.lr=1e-2", *ROOMS,
            f"paths.results={tmp_path / folder}", f"paths.cache={of_parent.cache}", *overrides,
        )  # fmt: skip
        raw["data"]["corpus"] = corpus or stream(ORDER)
        return make_point(raw)

    return make


def losses(record):
    return [{name: s["loss"] for name, s in row["scores"].items()} for row in record.stages]


def test_each_stage_is_learnt_and_the_whole_matrix_is_in_the_record(child, parent):
    point = child()
    assert point.plan.stage_steps == (point.plan.n_steps // 2,) * 2
    record = execute(point)
    assert record.status == "done", record.error
    assert [row["stage"] for row in record.stages] == ["start", *ORDER]
    assert [row["n_steps"] for row in record.stages] == [0, *point.plan.stage_steps]
    matrix = losses(record)
    assert all(set(row) == {"base", *DOMAINS} for row in matrix)
    assert matrix[0]["base"] == pytest.approx(parent("peer")[1].val_loss, rel=relative(1))
    assert record.val_loss == pytest.approx(matrix[-1]["base"], rel=relative(1))
    assert matrix[1]["sea"] < matrix[0]["sea"] - 0.5, "what a stage teaches is learnt"
    assert matrix[2]["farm"] < matrix[1]["farm"] - 0.5
    assert matrix[2]["sea"] > matrix[1]["sea"] + 0.1, "and forgotten when another follows"
    assert matrix[2]["base"] > matrix[0]["base"] + 0.1


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(
            ("continual.top_rows=16", "optim.table_gradient=rows"), marks=pytest.mark.night
        ),
        ("continual.replay=0.5", "continual.distil=1.0"),
    ],
)
def test_a_run_taken_up_again_within_a_stage_is_the_run_that_was_not_stopped(more, child):
    often = ("trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")
    each = ("continual=keep", *often, *more)
    whole, stopped = child(*each), child(*each, folder="stopped")
    record = execute(whole)
    assert record.status == "done", record.error
    with pytest.raises(Killed):
        execute(stopped, kill_at(whole.plan.stage_steps[0] + 3))
    again = execute(stopped)
    assert again.stages == record.stages
    ends = weights_of(whole), weights_of(stopped)
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_joint_training_forgets_nothing_and_orders_are_other_runs(child):
    joint = child(corpus=stream(ORDER, joint=True))
    matrix = losses(execute(joint))
    assert len(matrix) == 2
    assert matrix[1]["sea"] < matrix[0]["sea"] - 0.5
    assert matrix[1]["farm"] < matrix[0]["farm"] - 0.5
    ids = {p.run_id for p in (joint, child(), child(corpus=stream(ORDER[::-1])))}
    assert len(ids) == 3
    # a domain that is scored alone is no part of what a run is
    fewer = stream(ORDER)
    del fewer["domains"]["town"]
    assert child(corpus=fewer).run_id == child().run_id


@pytest.mark.night
def test_ways_to_keep_what_was_known_keep_more_of_it(child):
    base = losses(execute(child()))
    forgotten = base[-1]["base"] - base[0]["base"]
    for way in ("continual.replay=0.5", "continual.distil=3.0", "continual.l2=1.0"):
        matrix = losses(execute(child("continual=keep", way)))
        assert matrix[-1]["base"] - matrix[0]["base"] < 0.8 * forgotten, way


def test_tables_alone_change_nothing_that_decides_what_is_retrieved(child, parent):
    point = child("init.train=tables", "optim.table_gradient=rows")
    execute(point)
    before, after = weights_of(parent("peer")[0]), weights_of(point)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"blocks.0.ffn.w_down", "blocks.0.ffn.w_up"}
    assert point.plan.cost.n_trained_params == 2 * 256 * 32
    keys = {t.name: t for t in point.plan.cost.terms}["ffn.keys"]
    assert (keys.passes, keys.n_trained) == (1, 0)


def test_a_step_changes_no_more_rows_than_it_may(child, parent):
    """One stage of one step: at most top_rows rows of a table differ."""
    ways = (
        "continual=keep", "continual.top_rows=5", "optim.table_gradient=rows", "init.train=tables",
    )  # fmt: skip
    plan = child(*ways, corpus=stream(["sea"])).plan
    budget = 2 * plan.planned_flops / plan.n_steps
    point = child(*ways, f"budget={budget}", corpus=stream(["sea"]))
    assert point.plan.n_steps == 2
    execute(point)
    before, after = weights_of(parent("peer")[0]), weights_of(point)
    name = "blocks.0.ffn.w_up"
    n_changed = int((before[name] != after[name]).any(1).sum())
    assert 0 < n_changed <= 5 * point.plan.n_steps


def test_rows_that_no_stage_reads_do_not_move_the_function(child):
    """A frozen model forgets nothing at all: where no row is chosen the function is the same."""
    point = child("init.train=tables", "optim.table_gradient=rows", "optim.lr=1e-30")
    matrix = losses(execute(point))
    assert matrix[0] == matrix[1] == matrix[2]


def test_distillation_counts_the_forward_pass_that_it_costs(child):
    plain, distilled = child().plan, child("continual=keep", "continual.distil=1.0").plan
    forward = plain.cost.forward_flops
    assert distilled.cost.training_flops == pytest.approx(plain.cost.training_flops + forward)
    assert distilled.cost.frozen_flops == pytest.approx(plain.cost.frozen_flops + forward)
    assert distilled.n_steps < plain.n_steps


KEEP, ROWS = "continual=keep", "optim.table_gradient=rows"
UNSET = "data.corpus.domains.m is not set: a domain"
REFUSED = [
    ("", stream(["sky"]), "order: 'sky' is not one of the domains sea, farm, town"),
    ("", stream([]), "order=[] must name a domain"),
    ("", stream(["sea", "sea"]), "must name a domain, each one once"),
    ("", stream(ORDER, shares=[1.0]), "shares=[1.0] must be 2 numbers above 0"),
    ("", stream(ORDER) | {"base": "wikitext2"}, "data.corpus.base='wikitext2': what was learnt"),
    ("", stream(["m"]) | {"domains": {"m": "abc"}}, "data.corpus.domains.m='abc': a domain is"),
    ("", stream(["m"]) | {"domains": {"m": None}}, UNSET),
    (
        f"{KEEP} continual.top_rows=5",
        None,
        "continual.top_rows=5 chooses among the rows that a step changes",
    ),
    (
        f"{KEEP} continual.top_rows=5 continual.row_score=luck",
        None,
        "continual.row_score='luck' is not one of tf_idf",
    ),
    (f"{KEEP} continual.top_rows=9999 {ROWS}", None, "rows of a table are all of them"),
    (
        f"{KEEP} continual.top_rows=5 {ROWS} init.train=lora",
        None,
        "optim.table_gradient=rows and init.train=lora",
    ),
    (f"{KEEP} continual.replay=1.5", None, "continual.replay=1.5"),
    (f"{KEEP} continual.replay=1", None, "continual.replay=1 must be below 1"),
    (f"{KEEP} continual.replay=1e-5", None, "windows of the run is less than one"),
    ("++continual.replay=.5", None, "continual.replay=0.5 with continual=none"),
    (f"{KEEP} continual.l2=1 {ROWS}", None, "it draws all rows"),
    ("data.skip_steps=5", None, "data.skip_steps=5 with data=stream"),
]


@pytest.mark.parametrize(("overrides", "corpus", "why"), REFUSED)
def test_streams_that_can_not_be_are_refused_in_one_line(overrides, corpus, why, child):
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        child(*overrides.split(), corpus=corpus)
    assert "\n" not in str(caught.value)


def test_tables_alone_of_a_layer_without_tables(child):
    with pytest.raises(ValueError, match="which has no table of rows"):
        child("init.train=tables", name="dense")


def test_a_stream_from_nothing_names_its_base(compose_raw):
    raw = compose_raw("size=2", "budget=2e9", "data=stream", *ROOMS)
    raw["data"]["corpus"] = stream(ORDER)
    with pytest.raises(ValueError, match=re.escape("data.corpus.base is not set")):
        make_point(raw)
    given = copy.deepcopy(raw)
    given["data"]["corpus"]["base"] = {"_target_": "tests.conftest.Nursery"}
    given["continual"] = {
        "replay": 0.0, "top_rows": None, "background_steps": 1, "distil": 1.0, "l2": 0.0
    }  # fmt: skip
    with pytest.raises(ValueError, match="towards the weights at the start, and init=none"):
        make_point(given)


def test_the_dry_run_has_the_stages(child):
    text = plan_table([child("continual=keep", "continual.replay=0.05")], flops_per_second=1e9)
    n = child().plan.stage_steps[0]
    assert f"sea {n}, farm {n}\n" in text
    assert re.search(r"What was known is kept by:\n .* replay=0\.05\n", text)
    assert "epochs: not known" not in text


def test_memory_counts_the_model_that_it_is_drawn_to(child):
    plain, drawn = (child("continual=keep", *way).plan.memory for way in ((), ("continual.l2=1",)))
    assert drawn.weights == 2 * plain.weights
