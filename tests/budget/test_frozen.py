"""What a step costs where parts are frozen: against torch's counter, parameters and bytes."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks.core.loop import OPTIM
from experiments.budget.costs import Cost
from experiments.budget.memory import plan_memory
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.freezing import freeze
from experiments.models.transformer import TransformerConfig
from experiments.points.memory import moment_bytes

D, SEQ, VOCAB = 32, 16, 50
PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8, query_norm="none")
DENSE = DenseConfig()
NARROW = DenseConfig(width_factor=0.5)


def config(ffns, **how):
    shape = {"d_model": D, "d_head": 8, "vocab_size": VOCAB, "seq_len": SEQ, "tie_head": True}
    return TransformerConfig(ffns=ffns, **shape, **how)


def products_of_a_step(model):
    """FLOPs per token of all matrix products but attention's own, as torch counts them."""
    tokens = torch.randint(0, VOCAB, (2, SEQ))
    with FlopCounterMode(display=False) as counter:
        model(tokens).square().mean().backward()
    total = counter.get_flop_counts()["Global"]
    return sum(n for op, n in total.items() if "attention" not in str(op)) / tokens.numel()


def planned_products(cost: Cost):
    return sum(t.passes * t.flops for t in cost.terms if t.seen_by_torch)


def test_all_trained_is_three_forward_passes():
    model = config((DENSE, DENSE))
    assert products_of_a_step(model.build()) == planned_products(model.cost())
    assert model.cost().training_flops == 3 * model.cost().forward_flops


@pytest.mark.parametrize("block", [0, 1, 2])
def test_frozen_blocks_cost_what_torch_counts(block):
    """A dense layer beside that of one block: no gradient below it, half of a backward above.

    The layer's own inputs need no gradient where nothing below is trained; it is counted.
    """
    ffns = [DENSE] * 3
    ffns[block] = BesideConfig(frozen=DENSE, trained=NARROW)
    made = config(tuple(ffns), trained_blocks=(block,))
    model = made.build()
    freeze(model)
    spare = 2 * D * NARROW.d_ff(D)
    assert products_of_a_step(model) == planned_products(made.cost()) - spare


@pytest.mark.parametrize("norm", ["batch", "batch_plain"])
def test_batch_norm_is_frozen_with_its_layer_though_it_has_no_weights(norm):
    omni = OmniConfig(n_experts=16, top_k=4, router_norm=norm)
    for tables_alone in (False, True):
        how = {"trained_blocks": (1,), "tables_alone": tables_alone}
        model = config((omni, omni), **how).build()
        freeze(model)
        frozen = [block.ffn.router_norm.frozen for block in model.blocks]
        assert frozen == [True, tables_alone]


def test_two_trained_layers_are_counted_from_the_first():
    beside = BesideConfig(frozen=DENSE, trained=NARROW)
    made = config((DENSE, beside, DENSE, beside), trained_blocks=(1, 3))
    model = made.build()
    freeze(model)
    spare = 2 * D * NARROW.d_ff(D)  # of block 1; what is in block 3 passes gradients on
    assert products_of_a_step(model) == planned_products(made.cost()) - spare


def test_low_rank_adapters_cost_what_torch_counts():
    made = config((DENSE, DENSE), trained_blocks=(), lora_rank=2)
    model = made.build()
    freeze(model)
    first = 2 * D * 3 * D + 2 * D * 2  # the inputs of the first block's qkv need no gradient
    assert products_of_a_step(model) == planned_products(made.cost()) - first
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert made.cost().n_trained_params == trained
    assert made.cost().n_params == sum(p.numel() for p in model.parameters())


def test_a_step_by_hand_where_one_layer_is_trained():
    """At width 8: below the layer a step goes forward alone; above, a gradient comes down through
    frozen weights at the cost of one more pass, and through attention's products of two more.
    """
    beside = BesideConfig(frozen=DENSE, trained=NARROW)
    shape = {"d_model": 8, "d_head": 8, "vocab_size": 100, "seq_len": 15, "tie_head": True}
    ffns = (DENSE, beside, DENSE)
    cost = TransformerConfig(ffns=ffns, **shape, trained_blocks=(1,)).cost()
    projections, context = 2 * 4 * 8 * 8, 2 * 2 * 8 * 8  # of 8 positions on average
    dense, narrow, head = 2 * 2 * 8 * 32, 2 * 2 * 8 * 4, 2 * 8 * 100
    below = projections + context + dense
    same = projections + context + dense
    above = 2 * projections + 3 * context + 2 * dense + 2 * head
    assert cost.frozen_flops == below + same + above
    assert cost.training_flops == below + same + above + 3 * narrow
    assert cost.n_trained_params == 2 * 8 * 4


def test_layers_of_one_kind_of_which_one_is_trained():
    """Also of a part without parameters, which is of neither by their number."""

    def flops(layer):
        return {t.name: t.flops for t in layer.cost(D).terms if t.flops}

    made = config((PEER, PEER, PEER), trained_blocks=(1,), tables_alone=True)
    every, attention = flops(PEER), 2 * 4 * D * D
    context, head = 2 * D * (SEQ + 1), 2 * D * VOCAB
    layers = (1 + 1 + 2) * sum(every.values()) - every["experts"]
    expected = layers + 4 * attention + (1 + 1 + 3) * context + 2 * head
    assert made.cost().frozen_flops == expected
    assert made.cost().training_flops == expected + 3 * every["experts"]
    assert made.cost().n_trained_params == 2 * 64 * D
    larger = replace(PEER, n_experts=256)
    assert config((PEER, larger)).cost().frozen_flops == 0


def test_trained_parameters_are_those_with_gradients():
    beside = BesideConfig(frozen=DENSE, trained=PEER)
    made = config((DENSE, beside), trained_blocks=(1,))
    model = made.build()
    freeze(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert made.cost().n_trained_params == sum(p.numel() for p in trained)
    assert made.cost().n_trained_params == PEER.cost(D).n_params
    assert made.cost().n_params == sum(p.numel() for p in model.parameters())


def test_frozen_weights_have_no_gradients_and_no_moments():
    beside = BesideConfig(frozen=DENSE, trained=PEER)
    frozen = config((DENSE, beside), trained_blocks=(1,))
    cost, blocks = frozen.cost(), frozen.block_costs()
    optim, table = replace(OPTIM, table_gradient="rows", table_state="bfloat16"), PEER.cost(D)
    n_table = sum(term.n_params for term in table.terms if term.n_tables)
    assert moment_bytes(optim, frozen) == 8 * table.n_params - 4 * n_table
    moments = moment_bytes(OPTIM, frozen)
    memory = plan_memory(
        cost, blocks, d_model=D, vocab_size=VOCAB, micro_tokens=64, moments=moments
    )
    assert memory.weights == 4 * cost.n_params
    assert memory.gradients == 4 * PEER.cost(D).n_params
    assert memory.moments == 8 * PEER.cost(D).n_params
