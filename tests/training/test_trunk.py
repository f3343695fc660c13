"""Runs whose trunk is fused: the runs that they are without it, and what a record says of it."""

from dataclasses import replace

import pytest
import torch

from experiments.models.fused import HEAD, Fused
from experiments.points.planning import make_point
from experiments.training.execute import execute
from experiments.training.trunk import resolve_trunk
from tests.conftest import TINY, Killed, kill_at

SMALL = ("size=2", "budget=2e9")
HOWS = ("eager", "auto")


@pytest.fixture
def trained(compose_raw, tmp_path):
    """trained("trainer.trunk=fused", ...): the record of a run in a folder of its own."""
    folders = iter(range(100))

    def run(*overrides):
        paths = (f"paths.results={tmp_path / str(next(folders))}", f"paths.cache={tmp_path / 'c'}")
        record = execute(make_point(compose_raw(*SMALL, *TINY, *paths, *overrides)))
        assert record.status == "done", record.error
        return record

    return run


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("trainer.micro_batch_size=2",),
        ("data.mask_documents=true",),
        ("ladder.tie_head=true",),
        ("optim.parametrization=mup", "optim.lr_d_model=16"),
        # all experts: of near ties the two may choose different ones, and go apart from there
        ("model=peer", "n_experts=16", "model.n_heads=2", "model.top_k=16", "model.d_key=16"),
    ],
    ids=lambda settings: settings[0] if settings else "plain",
)
def test_a_fused_run_has_the_loss_of_an_eager_one(trained, settings):
    eager, fused = (trained(f"trainer.trunk={how}", *settings) for how in ("eager", "fused"))
    assert fused.run_id == eager.run_id
    assert fused.val_loss == pytest.approx(eager.val_loss, rel=2e-5)
    assert fused.train_loss == pytest.approx(eager.train_loss, rel=2e-5)
    assert eager.environment["trunk"] == "eager"
    assert fused.environment["trunk"].startswith("fused ")
    assert "eager" not in fused.environment["trunk"]


def test_a_run_of_torch_s_kernel_differs_by_its_trunk_s_rounding_alone(trained):
    """One id, trained with a fused trunk, and as before there was one (docs/running.md)."""
    peer = ("model=peer", "n_experts=16", "model.n_heads=2", "model.top_k=16", "model.d_key=16")
    eager, auto = (trained("kernel=torch", f"trainer.trunk={how}", *peer) for how in HOWS)
    assert auto.run_id == eager.run_id
    assert "ffn 0 eager: kernel=torch reads the tables" in auto.environment["trunk"]
    assert auto.val_loss != eager.val_loss
    assert auto.val_loss == pytest.approx(eager.val_loss, rel=2e-5)


def test_bfloat16_operands_give_nearly_that_loss(trained):
    exact, rounded = (trained(f"trainer.precision={p}") for p in ("32-true", "bf16-mixed"))
    assert rounded.val_loss != exact.val_loss
    assert rounded.val_loss == pytest.approx(exact.val_loss, abs=0.02)
    assert rounded.precision == "bf16-mixed"


def test_it_repeats_to_the_bit_for_any_number_of_threads(trained):
    """Its training: scores are of the model as it is written, whose sums depend on threads."""
    losses = {trained(f"trainer.n_threads={n}").train_loss for n in (1, 2, 2)}
    assert len(losses) == 1


@pytest.mark.parametrize("model", ["moe", "moe_fine"])
def test_a_mixture_s_run_is_fused_and_repeats_for_any_number_of_threads(trained, model):
    """Its loss is not an eager run's: a choice between experts that are nearly equal may differ."""
    experts = ("n_experts=8", *(["model.top_k=2"] if model == "moe_fine" else []))
    runs = [trained(f"model={model}", *experts, f"trainer.n_threads={n}") for n in (1, 2)]
    assert runs[0].train_loss == runs[1].train_loss
    assert "eager" not in runs[0].environment["trunk"]


def test_it_resumes_to_the_bit(trained, compose_raw, tmp_path):
    whole = trained()
    often = ("trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")
    paths = (f"paths.results={tmp_path / 'r'}", f"paths.cache={tmp_path / 'c'}")
    point = make_point(compose_raw(*SMALL, *TINY, *paths, *often))
    with pytest.raises(Killed):
        execute(point, kill_at(point.plan.n_steps // 2))
    assert execute(point).val_loss == whole.val_loss


def test_a_part_that_reads_logits_gets_them(compose_raw):
    point = make_point(compose_raw(*SMALL, *TINY))
    model = point.transformer.build()

    class Reader:
        reads_logits = True

    fused = resolve_trunk("auto", "cpu", model, [Reader()], compiled=False)
    assert fused.eager == {HEAD: "Reader reads its logits"}
    with pytest.raises(
        ValueError, match=r"trunk=fused, and head can't be: Reader reads its logits"
    ):
        resolve_trunk("fused", "cpu", model, [Reader()], compiled=False)


@pytest.mark.parametrize(
    ("choice", "accelerator", "compiled"),
    [("eager", "cpu", False), ("auto", "cuda", False), ("auto", "cpu", True)],
)
def test_a_trunk_that_is_as_written(compose_raw, choice, accelerator, compiled):
    model = make_point(compose_raw(*SMALL, *TINY)).transformer.build()
    assert resolve_trunk(choice, accelerator, model, [], compiled=compiled) is None


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("ladder.d_per_layer=24", "ladder.d_head=24"), "d_head=24 is no multiple of 16 up to 128"),
        (("ladder.d_per_layer=8", "ladder.d_head=8", "size=1"), "d_model=8 is no multiple of 16"),
        (("trainer.compile=true",), "trainer.compile=true makes the trunk"),
        (("model=pkm", "n_experts=256", "kernel=torch"), "kernel=torch reads the tables"),
    ],
)
def test_what_can_t_be_fused_is_refused_by_name(compose_raw, overrides, said):
    with pytest.raises(ValueError, match=f"trainer.trunk=fused: .*{said}.*; use auto or eager"):
        make_point(compose_raw(*SMALL, *TINY, *overrides, "trainer.trunk=fused"))


@pytest.mark.parametrize("name", ["peer", "pkm"])
def test_layers_of_product_keys_are_fused(compose_raw, name):
    overrides = ("trainer.trunk=fused", f"model={name}", "n_experts=256", "model.d_key=16")
    config = make_point(compose_raw(*SMALL, *TINY, *overrides)).transformer
    with torch.device("meta"):
        assert not Fused(config.build()).eager


def test_low_rank_adapters_are_eager_by_name(compose_raw):
    config = make_point(compose_raw(*SMALL, *TINY)).transformer
    with torch.device("meta"):
        fused = Fused(replace(config, lora_rank=2).build())
    assert set(fused.eager) == {"attention 0", "ffn 0", "attention 1", "ffn 1"}
    assert "LoRALinear is not a plain linear map" in fused.describe()
