"""Runs whose tables step by rows, from the config to the record; and what is refused beforehand."""

import functools
from dataclasses import replace

import pytest

from experiments.points.planning import make_point
from experiments.training.execute import execute
from experiments.training.module import LanguageModel
from experiments.training.starting import build_model
from tests.conftest import TINY, Killed, kill_at

SMALL = ("n_experts=64", "model.d_key=8", "model.n_heads=2", "model.top_k=4")
FUSED = ("optim.table_gradient=fused", "optim.grad_clip=null")
WAYS = {
    "rows": ("optim.table_gradient=rows",),
    "rows_bf16": ("optim.table_gradient=rows", "optim.table_state=bfloat16"),
    "fused": FUSED,
    "fused_bf16": (*FUSED, "optim.table_state=bfloat16", "model.table_dtype=bfloat16"),
}


@pytest.fixture
def make(compose_raw, tmp_path):
    def point(*overrides, folder="results"):
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={tmp_path / 'cache'}")
        fixed = ("size=2", "budget=2e9")
        return make_point(compose_raw(*fixed, *TINY, *paths, *overrides))

    return point


@pytest.fixture(scope="module")
def dense(compose_raw, tmp_path_factory):
    """dense(model): the record of its run with dense gradients, run once for all tests that ask."""
    top = tmp_path_factory.mktemp("dense")
    paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")

    @functools.cache
    def trained(model):
        fixed = (f"model={model}", *SMALL, "size=2", "budget=2e9")
        return execute(make_point(compose_raw(*fixed, *TINY, *paths)))

    return trained


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
def test_learns_and_goes_on_to_the_bit(make, dense, model, way):
    overrides = (f"model={model}", *SMALL, *WAYS[way])
    whole = make(*overrides, folder="whole")
    expected = execute(whole)
    assert expected.status == "done", expected.error
    # another optimizer for rows that a step does not retrieve, and nothing else
    assert expected.val_loss == pytest.approx(dense(model).val_loss, abs=0.1)
    with pytest.raises(Killed):
        execute(make(*overrides, "trainer.checkpoint_minutes=0", folder="broken"), kill_at(20))
    result = execute(make(*overrides, folder="broken"))
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)


def test_a_model_without_tables_is_the_same_run_whatever_its_tables_do(make):
    rows = execute(make("model=dense", *WAYS["rows"], folder="rows"))
    assert rows.val_loss == execute(make("model=dense", folder="plain")).val_loss


def test_the_kernel_is_no_part_of_a_runs_identity_and_the_way_of_its_tables_is(make):
    plain = make("model=peer", *SMALL)
    assert make("model=peer", *SMALL, "kernel=reference").run_id == plain.run_id
    assert make("model=peer", *SMALL, *WAYS["rows"]).run_id != plain.run_id


@pytest.mark.parametrize("kernel", ["reference", "torch", "cpp"])
def test_every_kernel_trains_the_same_run(make, dense, kernel):
    """Float32 sums in another order; the first ten steps agree, and then the paths part slowly."""
    auto = dense("peer")
    other = execute(make("model=peer", *SMALL, f"kernel={kernel}"))
    assert other.status == "done", other.error
    assert other.val_loss == pytest.approx(auto.val_loss, abs=0.02)


def test_micro_batches_of_rows_are_the_step_of_the_whole(make):
    rows = ("model=peer", "model.query_norm=layer", *SMALL, *WAYS["rows"])
    whole = execute(make(*rows, folder="whole"))
    micro = execute(make(*rows, "trainer.micro_batch_size=1", folder="micro"))
    assert micro.status == "done", micro.error
    assert micro.val_loss == pytest.approx(whole.val_loss, abs=0.02)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optim.table_gradient=fused",), r"fused with optim.grad_clip=1.0.*optim.grad_clip=null"),
        ((*FUSED, "trainer.micro_batch_size=2"), r"fused with trainer.micro_batch_size=2: tables"),
        (("optim.table_state=bfloat16",), r"table_state=bfloat16 with optim.table_grad"),
        (("model.table_dtype=bfloat16",), r"table_dtype=bfloat16 .*dense: torch's AdamW would"),
        (("optim.table_gradient=rows", "kernel=reference"), r"kernel=reference has dense"),
        (("optim.table_gradient=sparse",), r"'sparse' is not one of dense, rows, fused"),
        (("kernel=cuda",), r"kernel='cuda' is not one of auto, reference, torch, cpp, triton"),
        (("model.table_dtype=int8",), r"table_dtype='int8' is not one of float32, bfloat16"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused_beforehand(make, overrides, message):
    with pytest.raises(ValueError, match=message):
        make("model=peer", *SMALL, *overrides)


def test_triton_on_a_cpu_is_refused(make, monkeypatch):
    monkeypatch.setattr("experiments.kernels.triton_kernel.why_not", lambda device: "no GPU here")
    with pytest.raises(ValueError, match=r"kernel=triton: no GPU here; use auto or torch"):
        make("model=peer", *SMALL, "kernel=triton")


@pytest.mark.parametrize("how", ["dense", "rows", "fused"])
def test_layers_and_optimizer_have_one_execution(make, how):
    point = make("model=peer", *SMALL, "kernel=torch", *WAYS.get(how, ()))
    prepared = type("Prepared", (), {"vocabulary": None})()
    model = build_model(point, prepared.vocabulary)
    module = LanguageModel(model, point.plan, point.config.optim, kernel=point.config.kernel)
    optimizer = module.configure_optimizers()["optimizer"]
    (execution,) = {layer.execution for layer in model.ffn_layers()}
    assert execution.kernel == "torch"
    assert execution.gradient == ("dense" if how == "dense" else "rows")
    assert execution.update == (optimizer.update if how == "fused" else None)
    (own,) = {by.execution for by in optimizer.by if by.takes_rows} or {execution}
    assert own == replace(execution, update=None)
