"""Runs that start from a finished run of ours: what they start as, train, and keep."""

import json
import re
import shutil

import pytest
import torch

from experiments.evaluate import evaluate_run
from experiments.init.start import start
from experiments.language.plan_table import plan_table
from experiments.points.planning import compute_run_id, make_point
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from experiments.training.starting import START_NAME
from tests.conftest import Killed, kill_at
from tests.init.conftest import KEYS, finish, weights_of
from tests.rounding import relative

LAYERS = {
    "peer": ("model=peer", *KEYS, "model.query_norm=layer"),
    "pkm": ("model=pkm", *KEYS, "model.query_norm=layer"),
    "moe_fine": ("model=moe_fine", "n_experts=8"),
    "dense": ("model=dense", "model.width_factor=0.5"),
}


@pytest.fixture
def moved(parent, tmp_path):
    """A copy of the dense parent's folder."""
    return shutil.copytree(parent("dense")[0].run_dir, tmp_path / "moved")


def test_a_child_is_as_its_parent_but_for_what_is_asked(child, parent):
    point, (of_parent, _) = child("dense", *LAYERS["peer"]), parent("dense")
    assert point.config.size == of_parent.config.size
    assert point.transformer.d_model == of_parent.transformer.d_model
    assert point.config.data.tokenizer.n_entries() == of_parent.transformer.vocab_size
    assert point.raw["init"]["sha256"] == point.config.init.weights.digest(point.cache)
    assert make_point(point.raw).run_id == point.run_id == compute_run_id(point.raw)
    rows = child("dense", "model=stem", "init.how=beside").raw["model"]["vocab_size"]
    assert rows == of_parent.transformer.vocab_size  # a layer with a row for each id


def test_the_place_of_the_weights_is_no_part_of_the_id(child, moved):
    point = child("dense", *LAYERS["peer"])
    assert child("dense", *LAYERS["peer"], f"init.path={moved}").run_id == point.run_id
    assert child("peer", "init.how=keep").run_id != child("dense", "init.how=keep").run_id


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_beside_leaves_the_function_to_the_bit(layer, child, parent):
    point, (of_parent, _) = child("dense", *LAYERS[layer]), parent("dense")
    whole, tokens = of_parent.transformer.build(), torch.randint(0, 270, (2, 32))
    whole.load_state_dict(weights_of(of_parent))
    model, init = point.transformer.build(), point.config.init
    bases = [point.config.trunk.base_ffn] * point.config.size
    text = iter([torch.randint(0, 270, (1, 32))])
    start(model, init, init.weights.state(point.cache), bases, (0,), text, seed=0)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(tokens), whole.train(mode)(tokens))


def test_the_dry_run_says_what_is_trained_and_what_is_frozen(child):
    text = plan_table([child("dense", *LAYERS["peer"])], flops_per_second=1e9)
    (line,) = (line for line in text.splitlines() if "FinishedRun" in line)
    assert "beside in block 0; trained: layer, " in line
    assert re.search(r"\d+% of the FLOPs are of frozen parts", line)


@pytest.mark.parametrize("layer", ["peer", "moe_fine"])
def test_training_a_layer_changes_nothing_else(layer, child, parent):
    point, (of_parent, before) = child("dense", *LAYERS[layer]), parent("dense")
    record, after = finish(point), weights_of(point)
    for name, value in weights_of(of_parent).items():
        kept = name.replace("blocks.0.ffn.", "blocks.0.ffn.ffn.")
        assert torch.equal(after[kept], value), name
    assert record.before["validation"]["loss"] == before.val_loss != record.val_loss
    trained = sum(v.numel() for n, v in after.items() if n.startswith("blocks.0.ffn.layer."))
    buffers = sum(v.numel() for n, v in after.items() if n.endswith(("load", "bias_of_choice")))
    assert record.n_trained_params <= trained <= record.n_trained_params + buffers + 64
    assert record.n_params > record.n_trained_params
    assert record.init["how"] == "beside"
    assert record.init["sha256"] == point.raw["init"]["sha256"]


def test_low_rank_adapters_start_exact_and_are_all_that_is_trained(child, parent):
    adapters = ("init.train=lora", "init.lora_rank=2", "budget=1.01007e9")
    point, (of_parent, before) = child("dense", "init.how=keep", *adapters), parent("dense")
    record, weights, after = finish(point), weights_of(of_parent), weights_of(point)
    assert record.before["validation"]["loss"] == before.val_loss
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    added = [value for name, value in after.items() if name not in weights]
    assert record.n_trained_params == sum(value.numel() for value in added)
    assert all(value.abs().max() > 0 for value in added)


def test_all_of_a_kept_model_goes_on_training(child, parent):
    point = child("peer", "init.how=keep", "init.train=all")
    (of_parent, before), record, after = parent("peer"), finish(point), weights_of(point)
    assert (record.model, record.n_trained_params) == ("peer", record.n_params)
    assert record.before["validation"]["loss"] == before.val_loss
    weights = weights_of(of_parent).items()
    assert not any(torch.equal(after[n], v) for n, v in weights if v.is_floating_point())


def test_copies_start_exact_from_the_layer_s_own_units(child, parent):
    record = finish(child("dense", *LAYERS["peer"], "init.how=copies"))
    assert record.init["exact"] is True
    assert record.before["validation"]["loss"] == parent("dense")[1].val_loss


def test_a_replaced_layer_learns_what_it_replaces(child, parent):
    """Distilled on 10,240 tokens, it starts nearer to its parent than the seeds alone do."""
    many = ("n_experts=144", "model.n_heads=1", "model.top_k=16", "init.how=replace")
    away = {}
    for tokens in (0, 10_240):
        distil = f"init.distil_tokens={tokens}"
        record = finish(child("dense", *LAYERS["peer"], *many, distil))
        away[tokens] = abs(record.before["validation"]["loss"] - parent("dense")[1].val_loss)
        assert (record.init["flops"] > 0) == (tokens > 0)
    assert away[10_240] < away[0]
    (distilled,) = record.init["distilled"].values()
    assert distilled["error_after"] < distilled["error_before"]


def test_an_upcycled_layer_is_copies_of_the_parent_s(child, parent):
    """All experts alike, all gates equal: the dense layer's function, but for rounding."""
    moe = ("model=moe", "n_experts=4", "model.routing=token_choice", "model.top_k=4")
    record = finish(child("dense", *moe, "init.how=upcycle", "init.train=all", "budget=1.01646e9"))
    loss = parent("dense")[1].val_loss
    assert record.before["validation"]["loss"] == pytest.approx(loss, abs=1e-3)


def test_a_frozen_batch_norm_keeps_its_statistics(child, parent):
    """Of PEER in block 0, while a dense layer beside that of block 1 is trained."""
    point = child("peer", *LAYERS["dense"], "trunk.ffn_blocks=[1]")
    finish(point)
    before, after = weights_of(parent("peer")[0]), weights_of(point)
    names = [name for name in before if "running" in name]
    assert len(names) == 2
    assert all(torch.equal(after[name], before[name]) for name in names)


def test_an_interrupted_child_ends_as_an_uninterrupted_one_to_the_bit(child):
    each = ("trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")
    whole = child("dense", *LAYERS["peer"], folder="whole")
    cut = child("dense", *LAYERS["peer"], *each, folder="cut")
    expected = execute(whole)
    with pytest.raises(Killed):
        execute(cut, kill_at(20))
    kept = (cut.run_dir / START_NAME).read_text()
    record = execute(cut)
    assert record.val_loss == expected.val_loss
    assert record.before == expected.before == json.loads(kept)["before"]
    ends = weights_of(whole), weights_of(cut)
    assert all(torch.equal(ends[1][name], value) for name, value in ends[0].items())


def test_a_finished_child_needs_its_parent_no_more(child, moved):
    point = child("dense", *LAYERS["dense"], f"init.path={moved}")
    done = execute(point)
    shutil.rmtree(moved)
    assert make_point(done.config).run_id == done.run_id
    nursery = ("+eval.again.corpus=null", "+eval.again.splits=[validation]")
    record = evaluate_run(point.run_dir, (*nursery, "evaluation.max_tokens=320"))
    scores = record.evaluations["again@max_tokens=320"]
    assert scores["loss"] == pytest.approx(done.val_loss, rel=relative(2))


def test_weights_that_changed_since_are_refused(child, moved):
    point = child("dense", *LAYERS["dense"], f"init.path={moved}")
    saved = torch.load(moved / LAST)
    saved["state_dict"]["model.norm.weight"] += 1
    torch.save(saved, moved / LAST)
    record = execute(point)
    assert record.status == "failed"
    assert "restore the file, or start a new run" in record.error


def test_what_is_given_may_be_the_weights_own(child):
    keep = ("peer", "init.how=keep")
    given = ("+model.top_k=4", "+model._target_=experiments.models.ffn.peer.PEERConfig")
    assert child(*keep, *given).run_id == child(*keep).run_id


def test_a_parent_s_damaged_record_names_the_parent_s_remedy(child, moved):
    text = (moved / "record.json").read_text()
    (moved / "record.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    why = r"is damaged .*; put a copy of it back, or give again the"
    with pytest.raises(ValueError, match=why):
        child("dense", "init.how=keep", f"init.path={moved}")
