"""Runs whose trunk is fused: the runs that they are without it, and what a record says of it."""

from dataclasses import replace

import pytest
import torch

from experiments.models.fused import HEAD, Fused
from experiments.training.execute import execute
from experiments.training.trunk import resolve_trunk

HOWS = ("eager", "auto")


@pytest.fixture
def trained(once):
    """trained("trainer.trunk=fused", ...): the record of a run."""
    return lambda *overrides: once(*overrides)[1]


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


def test_it_repeats_to_the_bit_for_any_number_of_threads(trained, make):
    """Its training: scores are of the model as it is written, whose sums depend on threads."""
    two = "trainer.n_threads=2"
    losses = {trained().train_loss, trained(two).train_loss, execute(make(two)).train_loss}
    assert len(losses) == 1


@pytest.mark.parametrize("model", ["moe", "moe_fine"])
def test_a_mixture_s_run_is_fused_and_repeats_for_any_number_of_threads(trained, model):
    """Its loss is not an eager run's: a choice between experts that are nearly equal may differ."""
    experts = ("n_experts=8", *(["model.top_k=2"] if model == "moe_fine" else []))
    runs = [trained(f"model={model}", *experts, f"trainer.n_threads={n}") for n in (1, 2)]
    assert runs[0].train_loss == runs[1].train_loss
    assert "eager" not in runs[0].environment["trunk"]


def test_it_resumes_to_the_bit(trained, resumed):
    assert resumed()[1].val_loss == trained().val_loss


def test_a_part_that_reads_logits_gets_them(make):
    point = make()
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
def test_a_trunk_that_is_as_written(make, choice, accelerator, compiled):
    model = make().transformer.build()
    assert resolve_trunk(choice, accelerator, model, [], compiled=compiled) is None


@pytest.mark.parametrize("name", ["peer", "pkm"])
def test_layers_of_product_keys_are_fused(make, name):
    overrides = ("trainer.trunk=fused", f"model={name}", "n_experts=256", "model.d_key=16")
    config = make(*overrides).transformer
    with torch.device("meta"):
        assert not Fused(config.build()).eager


def test_low_rank_adapters_are_eager_by_name(make):
    config = make().transformer
    with torch.device("meta"):
        fused = Fused(replace(config, lora_rank=2).build())
    assert set(fused.eager) == {"attention 0", "ffn 0", "attention 1", "ffn 1"}
    assert "LoRALinear is not a plain linear map" in fused.describe()
