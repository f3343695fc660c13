"""What a process will hold, by the plan: beside the model's own tensors and the paper's layer."""

import pytest
import torch

from experiments.benchmarks.core.loop import OPTIM
from experiments.budget.memory import plan_memory
from experiments.budget.plan import format_memory
from experiments.points.memory import moment_bytes
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.training.test_table_gradient import SMALL, WAYS


@pytest.fixture
def make(compose_raw):
    """make("model=peer", ...): such a point; nothing of it runs."""

    def point(*overrides):
        return make_point(compose_raw("size=2", "budget=2e9", *TINY, *overrides))

    return point


@pytest.mark.parametrize("way", [(), *WAYS.values()])
def test_planned_weights_are_those_of_the_model(make, way):
    point = make("model=peer", *SMALL, *way)
    model = point.transformer.build()
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    assert point.plan.memory.weights == held


def test_planned_gradients_of_rows_are_those_of_balanced_routing(make):
    point = make("model=peer", "n_experts=4096", "model.n_heads=2", "model.top_k=4", *WAYS["rows"])
    touched = len(torch.randint(0, 4096, (128 * 8,)).unique())
    tables = 2 * 4 * touched * point.transformer.d_model
    others = sum(
        p.numel() * 4 for n, p in point.transformer.build().named_parameters() if ".w_" not in n
    )
    dense_ffn = 2 * 4 * 4 * point.transformer.d_model**2  # the other block's
    dense_names = sum(
        p.numel() * 4
        for n, p in point.transformer.build().named_parameters()
        if ".w_" in n and p.shape[0] != 4096
    )
    assert dense_names in (0, dense_ffn)
    assert point.plan.memory.gradients == pytest.approx(others + dense_names + tables, rel=0.05)


def test_ways_differ_in_memory_as_they_should(make):
    def memory(*way):
        return make("model=peer", "n_experts=65536", *way).plan.memory

    dense, rows, fused = memory(), memory(*WAYS["rows"]), memory(*WAYS["fused"])
    assert dense.gradients > rows.gradients > fused.gradients
    assert dense.moments == rows.moments == fused.moments
    assert memory(*WAYS["rows_bf16"]).moments < 0.6 * rows.moments
    assert "weights" in format_memory(dense)


def test_the_papers_largest_layer_fits_one_80_gb_card(compose_raw):
    """128 x 2048 tokens, d_model 1024, 1024² experts: L=8 of the paper's grid, in micro-batches."""
    raw = compose_raw("experiment=paper_experts", "model=peer", "n_experts=1048576")
    point = make_point(raw)
    assert point.plan.batch_tokens == 128 * 2048
    assert point.transformer.d_model == 1024
    assert point.plan.memory.total < 80e9
    # its addends by hand: 2 N d table entries, of weights, gradients (and one table's addend of
    # the micro-batch) and two moments, each of 4 bytes
    tables = 2 * 1024**2 * 1024
    others = point.plan.cost.n_params - tables
    assert point.plan.memory.weights == 4 * (tables + others)
    assert point.plan.memory.gradients == 4 * (1.5 * tables + others)
    assert point.plan.memory.moments == 8 * (tables + others)


def test_memory_of_a_model_without_tables_is_sixteen_bytes_a_parameter(make):
    config = make("model=dense").transformer
    cost, blocks = config.cost(), config.block_costs()
    sizes = {"d_model": 32, "vocab_size": 270, "micro_tokens": 128}
    memory = plan_memory(cost, blocks, **sizes, moments=moment_bytes(OPTIM, config))
    assert memory.weights + memory.gradients + memory.moments == 16 * cost.n_params
