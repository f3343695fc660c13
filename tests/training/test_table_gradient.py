"""Runs whose tables step by rows, from the config to the record; and what it repeats."""

from dataclasses import replace

import pytest

from experiments.points.building import build_model
from experiments.training.execute import execute
from experiments.training.module import LanguageModel

SMALL = ("n_experts=64", "model.d_key=8", "model.n_heads=2", "model.top_k=4")
FUSED = ("optim.table_gradient=fused", "optim.grad_clip=null")
WAYS = {
    "rows": ("optim.table_gradient=rows",),
    "rows_bf16": ("optim.table_gradient=rows", "optim.table_state=bfloat16"),
    "fused": FUSED,
    "fused_bf16": (*FUSED, "optim.table_state=bfloat16", "model.table_dtype=bfloat16"),
}


@pytest.mark.parametrize(
    ("model", "way"),
    [
        *(("peer", way) for way in WAYS),
        ("pkm", "rows"),
        ("pkm", "fused_bf16"),
        pytest.param("pkm", "rows_bf16", marks=pytest.mark.night),
        pytest.param("pkm", "fused", marks=pytest.mark.night),
    ],
)
def test_learns_and_goes_on_to_the_bit(once, resumed, model, way):
    overrides = (f"model={model}", *SMALL, *WAYS[way])
    _, expected = once(*overrides)
    # another optimizer for rows that a step does not retrieve, and nothing else
    _, dense = once(f"model={model}", *SMALL)
    assert expected.val_loss == pytest.approx(dense.val_loss, abs=0.1)
    _, result = resumed(*overrides)
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)


def test_a_model_without_tables_is_the_same_run_whatever_its_tables_do(make, once):
    rows = execute(make("model=dense", *WAYS["rows"]))
    assert rows.val_loss == once("model=dense")[1].val_loss


def test_the_kernel_is_no_part_of_a_runs_identity_and_the_way_of_its_tables_is(make):
    plain = make("model=peer", *SMALL)
    assert make("model=peer", *SMALL, "kernel=reference").run_id == plain.run_id
    assert make("model=peer", *SMALL, *WAYS["rows"]).run_id != plain.run_id


@pytest.mark.parametrize("kernel", ["reference", "torch", "cpp"])
def test_every_kernel_trains_the_same_run(make, once, kernel):
    """Float32 sums in another order; the first ten steps agree, and then the paths part slowly."""
    _, auto = once("model=peer", *SMALL)
    other = execute(make("model=peer", *SMALL, f"kernel={kernel}"))
    assert other.status == "done", other.error
    assert other.val_loss == pytest.approx(auto.val_loss, abs=0.02)


def test_micro_batches_of_rows_are_the_step_of_the_whole(make):
    rows = ("model=peer", "model.query_norm=layer", *SMALL, *WAYS["rows"])
    whole = execute(make(*rows, folder="whole"))
    micro = execute(make(*rows, "trainer.micro_batch_size=1", folder="micro"))
    assert micro.status == "done", micro.error
    assert micro.val_loss == pytest.approx(whole.val_loss, abs=0.02)


@pytest.mark.parametrize("how", ["dense", "rows", "fused"])
def test_layers_and_optimizer_have_one_execution(make, how):
    point = make("model=peer", *SMALL, "kernel=torch", *WAYS.get(how, ()))
    model = build_model(point, None)
    module = LanguageModel(model, point.plan, point.config.optim, kernel=point.config.kernel)
    optimizer = module.configure_optimizers()["optimizer"]
    (execution,) = {layer.execution for layer in model.ffn_layers()}
    assert execution.kernel == "torch"
    assert execution.gradient == ("dense" if how == "dense" else "rows")
    assert execution.update == (optimizer.update if how == "fused" else None)
    (own,) = {by.execution for by in optimizer.by if by.takes_rows} or {execution}
    assert own == replace(execution, update=None)
