"""Runs that start from a finished run of ours: what they start as, train, and keep."""

import json
import re
import shutil

import pytest
import torch

from experiments.evaluate import evaluate_run
from experiments.init.start import start
from experiments.points.planning import compute_run_id, make_point
from experiments.records.files import RECORD_NAME, read_record
from experiments.sweep.plan_table import plan_table
from experiments.sweep.planning import plan_points
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from experiments.training.starting import START_NAME
from tests.conftest import TINY, Killed, kill_at
from tests.rounding import relative

# Of the parent; what a child has of its ladder comes from the weights.
SHAPE = ("ladder.d_per_layer", "ladder.d_head", "ladder.vocab_size")
ROOMS = tuple(o for o in TINY if not o.startswith(SHAPE))
PEER = ("model=peer", "n_experts=64", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
LAYERS = {
    "peer": (*PEER, "model.query_norm=layer"),
    "pkm": ("model=pkm", *PEER[1:], "model.query_norm=layer"),
    "moe_fine": ("model=moe_fine", "n_experts=8"),
    "dense": ("model=dense", "model.width_factor=0.5"),
}


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def parents(compose_raw, top):
    """Finished runs: a dense one, and one with batch-normalised PEER in block 0 of two."""
    paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
    made = {}
    for name, model in {"dense": (), "peer": PEER}.items():
        point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *paths, *model))
        execute(point)
        made[name] = point
    return made


@pytest.fixture
def child(compose_raw, parents, top, tmp_path):
    """child("dense", "model=peer", ...): the point of a run that starts from that parent."""

    def make(parent, *overrides, folder="children"):
        return make_point(
            compose_raw(
                "init=run",
                f"init.path={parents[parent].run_dir}",
                "budget=1.01e9",
                *ROOMS,
                f"paths.results={tmp_path / folder}",
                f"paths.cache={top / 'cache'}",
                *overrides,
            )
        )

    return make


KEEP = ("init.how=keep",)


def weights_of(point):
    return {
        name.removeprefix("model."): value
        for name, value in torch.load(point.run_dir / LAST)["state_dict"].items()
        if name.startswith("model.")
    }


def test_a_child_is_as_its_parent_but_for_what_is_asked(child, parents):
    point, parent = child("dense", *LAYERS["peer"]), parents["dense"]
    assert point.config.size == parent.config.size
    assert point.transformer.d_model == parent.transformer.d_model
    assert point.config.data.tokenizer.n_entries() == parent.transformer.vocab_size
    assert point.raw["init"]["sha256"] == parent_hash(point)
    assert make_point(point.raw).run_id == point.run_id == compute_run_id(point.raw)


def test_a_layer_with_a_row_for_each_id_has_the_weights_tokenizer_s(child, parents):
    point, parent = child("dense", "model=stem", "init.how=beside"), parents["dense"]
    assert point.raw["model"]["vocab_size"] == parent.transformer.vocab_size


def parent_hash(point):
    return point.config.init.weights.digest(point.cache)


def test_the_place_of_the_weights_is_no_part_of_the_id(child, parents, compose_raw, tmp_path, top):
    point = child("dense", *LAYERS["peer"])
    moved = shutil.copytree(parents["dense"].run_dir, tmp_path / "moved")
    elsewhere = child("dense", *LAYERS["peer"], f"init.path={moved}")
    assert elsewhere.run_id == point.run_id
    assert child("peer", "init.how=keep").run_id != child("dense", "init.how=keep").run_id


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_beside_leaves_the_function_to_the_bit(layer, child, parents):
    point = child("dense", *LAYERS[layer])
    parent, tokens = parents["dense"].transformer.build(), torch.randint(0, 270, (2, 32))
    parent.load_state_dict(weights_of(parents["dense"]))
    model = point.transformer.build()
    begin(point, model)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(tokens), parent.train(mode)(tokens))


def begin(point, model):
    weights = point.config.init.weights.state(point.cache)
    bases = [point.config.trunk.base_ffn] * point.config.size
    text = iter([torch.randint(0, 270, (1, 32))])
    start(model, point.config.init, weights, bases, (0,), text, seed=0)


def test_the_dry_run_says_what_is_trained_and_what_is_frozen(child):
    text = plan_table([child("dense", *LAYERS["peer"])], flops_per_second=1e9)
    (line,) = (line for line in text.splitlines() if "FinishedRun" in line)
    assert "beside in block 0; trained: layer, " in line
    assert re.search(r"\d+% of the FLOPs are of frozen parts", line)


@pytest.mark.parametrize("layer", ["peer", "moe_fine"])
def test_training_a_layer_changes_nothing_else(layer, child, parents):
    point = child("dense", *LAYERS[layer])
    record = execute(point)
    assert record.status == "done", record.error
    before, after = weights_of(parents["dense"]), weights_of(point)
    for name, value in before.items():
        kept = name.replace("blocks.0.ffn.", "blocks.0.ffn.ffn.")
        assert torch.equal(after[kept], value), name
    parent = read_record(parents["dense"].run_dir / RECORD_NAME)
    assert record.before["validation"]["loss"] == parent.val_loss
    assert record.val_loss != parent.val_loss
    trained = sum(v.numel() for n, v in after.items() if n.startswith("blocks.0.ffn.layer."))
    buffers = sum(v.numel() for n, v in after.items() if n.endswith(("load", "bias_of_choice")))
    assert record.n_trained_params <= trained <= record.n_trained_params + buffers + 64
    assert record.n_params > record.n_trained_params
    assert record.init["how"] == "beside"
    assert record.init["sha256"] == point.raw["init"]["sha256"]


def test_low_rank_adapters_start_exact_and_are_all_that_is_trained(child, parents):
    point = child(
        "dense", "init.how=keep", "init.train=lora", "init.lora_rank=2", "budget=1.01007e9"
    )
    record = execute(point)
    assert record.status == "done", record.error
    parent = read_record(parents["dense"].run_dir / RECORD_NAME)
    assert record.before["validation"]["loss"] == parent.val_loss
    before, after = weights_of(parents["dense"]), weights_of(point)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    added = {name: value for name, value in after.items() if name not in before}
    assert record.n_trained_params == sum(value.numel() for value in added.values())
    assert all(value.abs().max() > 0 for value in added.values())


def test_all_of_a_kept_model_goes_on_training(child, parents):
    point = child("peer", "init.how=keep", "init.train=all")
    record = execute(point)
    assert record.status == "done", record.error
    assert record.model == "peer"
    assert record.n_trained_params == record.n_params
    parent = read_record(parents["peer"].run_dir / RECORD_NAME)
    assert record.before["validation"]["loss"] == parent.val_loss
    before, after = weights_of(parents["peer"]), weights_of(point)
    assert not any(torch.equal(after[n], v) for n, v in before.items() if v.is_floating_point())


def test_copies_start_exact_from_the_layer_s_own_units(child, parents):
    point = child("dense", *LAYERS["peer"], "init.how=copies")
    record = execute(point)
    assert record.status == "done", record.error
    parent = read_record(parents["dense"].run_dir / RECORD_NAME)
    assert record.init["exact"] is True
    assert record.before["validation"]["loss"] == parent.val_loss


def test_a_replaced_layer_learns_what_it_replaces(child, parents):
    """Distilled on 10,240 tokens, it starts nearer to its parent than the seeds alone do."""
    many = ("n_experts=144", "model.n_heads=1", "model.top_k=16")
    model = (*LAYERS["peer"], *many, "init.how=replace")
    parent = read_record(parents["dense"].run_dir / RECORD_NAME)
    losses = {}
    for tokens in (0, 10_240):
        record = execute(child("dense", *model, f"init.distil_tokens={tokens}"))
        assert record.status == "done", record.error
        losses[tokens] = record.before["validation"]["loss"] - parent.val_loss
        assert (record.init["flops"] > 0) == (tokens > 0)
    assert abs(losses[10_240]) < abs(losses[0])
    (distilled,) = record.init["distilled"].values()
    assert distilled["error_after"] < distilled["error_before"]


def test_an_upcycled_layer_is_copies_of_the_parent_s(child, parents):
    """All experts alike, all gates equal: the dense layer's function, but for rounding."""
    moe = ("model=moe", "n_experts=4", "model.routing=token_choice", "model.top_k=4")
    point = child("dense", *moe, "init.how=upcycle", "init.train=all", "budget=1.01646e9")
    record = execute(point)
    assert record.status == "done", record.error
    parent = read_record(parents["dense"].run_dir / RECORD_NAME)
    assert record.before["validation"]["loss"] == pytest.approx(parent.val_loss, abs=1e-3)


def test_a_frozen_batch_norm_keeps_its_statistics(child, parents):
    """Of PEER in block 0, while a dense layer beside that of block 1 is trained."""
    point = child("peer", *LAYERS["dense"], "trunk.ffn_blocks=[1]")
    assert execute(point).status == "done"
    before, after = weights_of(parents["peer"]), weights_of(point)
    names = [name for name in before if "running" in name]
    assert len(names) == 2
    assert all(torch.equal(after[name], before[name]) for name in names)


def test_an_interrupted_child_ends_as_an_uninterrupted_one_to_the_bit(child):
    whole = child("dense", *LAYERS["peer"], folder="whole")
    cut = child(
        "dense",
        *LAYERS["peer"],
        "trainer.checkpoint_minutes=0",
        "logger.log_every_n_steps=1",
        folder="cut",
    )
    expected = execute(whole)
    with pytest.raises(Killed):
        execute(cut, kill_at(20))
    kept = (cut.run_dir / START_NAME).read_text()
    record = execute(cut)
    assert record.val_loss == expected.val_loss
    assert record.before == expected.before == json.loads(kept)["before"]
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(cut)[name], value)


def test_a_finished_child_needs_its_parent_no_more(child, parents, tmp_path):
    moved = shutil.copytree(parents["dense"].run_dir, tmp_path / "parent")
    point = child("dense", *LAYERS["dense"], f"init.path={moved}")
    done = execute(point)
    shutil.rmtree(moved)
    raw = done.config
    assert make_point(raw).run_id == done.run_id
    nursery = ("+eval.again.corpus=null", "+eval.again.splits=[validation]")
    record = evaluate_run(point.run_dir, (*nursery, "evaluation.max_tokens=320"))
    assert record.evaluations["again@max_tokens=320"]["loss"] == pytest.approx(
        done.val_loss, rel=relative(2)
    )


def test_weights_that_changed_since_are_refused(child, parents, tmp_path):
    moved = shutil.copytree(parents["dense"].run_dir, tmp_path / "parent")
    point = child("dense", *LAYERS["dense"], f"init.path={moved}")
    saved = torch.load(moved / LAST)
    saved["state_dict"]["model.norm.weight"] += 1
    torch.save(saved, moved / LAST)
    record = execute(point)
    assert record.status == "failed"
    assert "restore the file, or start a new run" in record.error


@pytest.mark.parametrize(
    ("parent", "overrides", "why"),
    [
        ("dense", ("size=3",), "size=3, and the weights of init have 2; leave size out"),
        ("dense", ("ladder=cpu",), "ladder.d_head=32, and the weights of init have 16"),
        (
            "dense",
            ("positions=alibi",),
            "trunk.positions=ALiBi(), and the weights of init have RoPE",
        ),
        (
            "dense",
            ("residual=parallel",),
            "trunk.residual=Parallel(), and the weights of init have PreNorm()",
        ),
        ("dense", ("tokenizer=gpt2",), "data.tokenizer has 50257 entries"),
        ("dense", (*PEER, "model.query_norm=batch"), "model.query_norm=batch with init"),
        ("dense", ("model=dense", "trunk.ffn_blocks=[2]"), "blocks of size=2 are 0 to 1"),
        ("dense", ("init.how=beside", "init.train=lora"), "set init.how=keep"),
        ("dense", (*LAYERS["pkm"], "init.how=copies"), "only PEER's experts are single neurons"),
        ("peer", ("init.how=replace", *LAYERS["peer"]), "block 0 of the weights holds PEER"),
        ("dense", (*LAYERS["peer"], "init.how=upcycle"), "the experts of model=moe"),
        (
            "dense",
            (*LAYERS["peer"], "model.glu=true", "init.how=copies"),
            "model.glu=true, but the FFN",
        ),
        ("dense", (*LAYERS["peer"], "init.how=replace"), "model.n_experts=64 is too few"),
        ("peer", ("trunk.ffn_blocks=all", "init.how=keep"), "these blocks hold different layers"),
        (
            "peer",
            (*KEEP, "model=dense"),
            "model=dense with init.how=keep: the blocks hold the weights",
        ),
        ("dense", (*KEEP, *LAYERS["peer"]), "own layer, which is Dense; leave model and n_experts"),
        ("peer", (*KEEP, "+model.top_k=3"), "model.top_k=3 with init.how=keep: the blocks hold"),
        ("peer", (*KEEP, "n_experts=4096"), "n_experts=4096 with init.how=keep"),
        ("peer", (*KEEP, "+model.typo=1"), "own layer, which has none"),
        (
            "dense",
            (),
            "init.how=beside puts another layer into the chosen blocks, and model=weights",
        ),
        ("dense", ("+model.width_factor=2",), "give model=NAME, as model=peer"),
        ("dense", ("model=none",), "init.train=layer with None, which has no parameters"),
        ("dense", (*LAYERS["peer"], "init.how=copies", "init.noise=-1"), "init.noise=-1 must be"),
        ("dense", (*LAYERS["peer"], "init.how=upcycle", "init.reinit=1.5"), "init.reinit=1.5 must"),
        ("dense", ("init.how=maybe",), "init.how='maybe' is not one of beside, bias, copies, keep"),
        ("dense", (*KEEP, "tokenizer=bpe"), "leave tokenizer out, and it is theirs, or set ladder"),
        ("dense", (*KEEP, "init.sha256=abc"), "init.sha256='abc', and the weights of init have"),
        ("dense", (*KEEP, "init.path=''"), "init.path='' must be a path, and not empty"),
        (
            "dense",
            (*KEEP, "init.path=null"),
            "init.path is not set; give init.path=..., the folder",
        ),
        (
            "dense",
            (*KEEP, "++continual.l2=1"),
            "continual.l2=1 with continual=none, which has no such",
        ),
    ],
)
def test_what_can_t_start_is_refused_in_one_line(parent, overrides, why, child):
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        child(parent, *overrides)
    assert "\n" not in str(caught.value)


def test_what_is_given_may_be_the_weights_own(child):
    given = ("+model.top_k=4", "+model._target_=experiments.models.ffn.peer.PEERConfig")
    assert child("peer", *KEEP, *given).run_id == child("peer", *KEEP).run_id


@pytest.mark.parametrize(
    ("parent", "overrides", "why"),
    [
        (
            "peer",
            (*KEEP, "init.train=all", "init.lora_rank=4"),
            "lora_rank=4 has no effect with init",
        ),
        ("peer", (*KEEP, "init.noise=.5"), "with init.how=keep; set init.how=copies or bias"),
        ("peer", (*KEEP, "init.anneal=.5"), "with init.how=keep; set init.how=bias"),
        ("peer", (*KEEP, "init.reinit=.5"), "with init.how=keep; set init.how=upcycle"),
        ("peer", (*KEEP, "init.distil_tokens=9"), "with init.how=keep; set init.how=replace"),
        ("peer", (*KEEP, "init.train=lora", "optim.table_lr=3"), "that is trained is a table"),
        ("peer", (*KEEP, "init.train=tables", "optim.key_lr=3"), "trained is a query or a key"),
        (
            "peer",
            (*KEEP, "init.train=tables", "optim.weight_decay=1"),
            "is a matrix of the backbone",
        ),
        ("peer", (*KEEP, "init.train=tables", "optim=muon"), "optim=muon has no effect on model="),
        (
            "peer",
            (*KEEP, "continual=keep", "continual.background_steps=3"),
            "top_rows=null; raise",
        ),
    ],
)
def test_a_setting_without_effect_on_what_is_trained_is_refused(parent, overrides, why, child):
    with pytest.raises(ValueError, match=re.escape(why)):
        plan_points([child(parent, *overrides).raw])


def test_a_parent_s_damaged_record_names_the_parent_s_remedy(child, parents, tmp_path):
    damaged = shutil.copytree(parents["dense"].run_dir, tmp_path / "damaged")
    text = (damaged / "record.json").read_text()
    (damaged / "record.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(
        ValueError, match=r"is damaged .*; put a copy of it back, or give again the"
    ):
        child("dense", *KEEP, f"init.path={damaged}")
