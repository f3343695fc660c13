"""Slots of layers, read and written: written out in float64, for each of them."""

import pytest
import torch
from torch import nn

from experiments.kernels.ops import Execution
from experiments.models.ffn._slots import Slotted
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.engram import Engram, EngramConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.sgatlin import Sgatlin, SgatlinConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.models.lora import LoRALinear
from experiments.models.tokens import Tokens
from experiments.models.usage import ExpertUsage
from tests.models.ffn.test_product_keys import retrieved

D, T, VOCAB = 16, 12, 7
KEYED = {"n_experts": 64, "n_heads": 2, "top_k": 3, "d_key": 8, "query_norm": "layer"}
FINE = {"n_experts": 5, "routing": "token_choice", "top_k": 2, "gate": "sigmoid"}
CONFIGS = {
    "peer": PEERConfig(**KEYED),
    "peer gated": PEERConfig(**KEYED, glu=True, output_gate=True, shared_width_factor=1.0),
    "peer own experts": PEERConfig(**{**KEYED, "n_experts": 128}, share_experts=False),
    "pkm": PKMConfig(**KEYED),
    "memory_plus": MemoryPlusConfig(**KEYED),
    "sgatlin": SgatlinConfig(n_experts=128, n_channels=2, top_k=3, d_key=8, activation="gelu"),
    "peer_narrow": PeerNarrowConfig(**KEYED, d_value=4),
    "ultramem": UltraMemConfig(**KEYED),
    "ultramem with a map": UltraMemConfig(**KEYED, value_factor=0.5, score="raw"),
    "omni": OmniConfig(n_experts=64, top_k=5, router_norm="none"),
    "moe_fine": MoEConfig(**FINE, granularity=4, n_shared_experts=1),
    "moe_fine gated": MoEConfig(**FINE, granularity=4, glu=True),
    "dense": DenseConfig(),
    "dense gated": DenseConfig(glu=True),
    "stem": StemConfig(vocab_size=VOCAB, width_factor=1.5),
    "engram": EngramConfig(n_experts=48, n_hashes=2, max_order=3, d_row=5),
}


@pytest.fixture(params=CONFIGS, ids=str)
def layer(request):
    made = CONFIGS[request.param].build(D).double().eval()
    made.execution = Execution(kernel="reference")
    with torch.no_grad():
        for parameter in made.parameters():  # what is zero would hide what is missing
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


@pytest.fixture
def x():
    return torch.randn(T, D, dtype=torch.float64)


IDS = torch.randint(0, VOCAB, (1, T), generator=torch.Generator().manual_seed(0))
TOKENS = Tokens(IDS, torch.arange(T).unsqueeze(0) % 9)  # of two documents, the second from 9 on


def written_by(layer, x):
    """What a forward pass writes, (T, D)."""
    return layer(x.unsqueeze(0), *([TOKENS] if layer.reads_tokens else []))[0]


@torch.no_grad()
def test_slots_and_what_is_beside_them_are_what_the_layer_writes(layer, x):
    slots = layer.slots(x, TOKENS)
    assert slots.experts.shape == slots.gates.shape == slots.weights.shape
    assert (slots.gates >= 0).all()
    total = layer.written(x, slots).sum(1)
    beside = layer.beside(x, TOKENS)
    if beside is not None:
        total = total + beside
    torch.testing.assert_close(total, written_by(layer, x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_tokens_do_not_meet(layer, x):
    """Each by itself reads and writes the same."""
    if isinstance(layer, Engram):
        pytest.skip("an n-gram is of several tokens")
    slots = layer.slots(x, TOKENS)
    written = layer.written(x, slots)
    for t in range(T):
        alone = layer.slots(x[t : t + 1], Tokens(IDS[:, t : t + 1], torch.zeros(1, 1)))
        assert torch.equal(alone.experts[0].sort().values, slots.experts[t].sort().values)
        torch.testing.assert_close(
            layer.written(x[t : t + 1], alone).sum(1)[0], written[t].sum(0), rtol=0, atol=1e-12
        )


@torch.no_grad()
def test_a_row_of_zeros_takes_away_what_its_expert_wrote_and_no_more(layer, x):
    if isinstance(layer, Engram):
        pytest.skip("its gate is of all rows that a token reads")
    slots, before = layer.slots(x, TOKENS), written_by(layer, x)
    written = layer.written(x, slots)
    removed = slots.experts[0, :2]
    layer.slot_rows()[removed] = 0
    gone = torch.isin(slots.experts, removed)
    expected = before - (written * gone.unsqueeze(-1)).sum(1)
    torch.testing.assert_close(written_by(layer, x), expected, rtol=0, atol=1e-12)
    assert gone.any()


@torch.no_grad()
def test_without_any_expert_there_is_what_is_beside_them_alone(layer, x):
    """Exactly: so a layer of experts alone becomes the layer `none`."""
    layer.slot_rows().zero_()
    beside = layer.beside(x, TOKENS)
    expected = torch.zeros_like(x) if beside is None else beside
    assert torch.equal(written_by(layer, x), expected)


@torch.no_grad()
def test_gates_are_those_that_usage_sums(layer, x):
    slots = layer.slots(x, TOKENS)
    if slots.all_experts:
        assert layer.n_experts == 0  # no router, and no usage
        return
    layer.usage = ExpertUsage(layer.n_experts)
    written_by(layer, x)
    again = ExpertUsage(layer.n_experts)
    again.add(slots.experts, slots.gates)
    assert torch.equal(layer.usage.weight, again.weight)


@torch.no_grad()
@pytest.mark.parametrize("name", ["peer", "peer gated", "peer own experts", "pkm", "peer_narrow"])
def test_slots_are_the_experts_of_a_scan_and_their_gates(name, x):
    layer = CONFIGS[name].build(D).double().eval()
    slots = layer.slots(x)
    for t, found in enumerate(retrieved(layer, x)):
        assert slots.experts[t].tolist() == [int(row) for _, row in found]
        gates = [float(gate) for gate, _ in found]
        assert slots.gates[t].tolist() == pytest.approx(gates, rel=1e-9)


@torch.no_grad()
def test_units_of_a_dense_layer_are_used_as_much_as_they_write(x):
    layer = DenseConfig().build(D).double()
    slots = layer.slots(x, TOKENS)
    assert slots.all_experts
    lengths = layer.written(x, slots).norm(dim=-1)
    torch.testing.assert_close(slots.gates, lengths)


def test_layers_that_cannot_say_do_not_claim_to():
    assert not isinstance(NoneConfig().build(D), Slotted)
    chosen = MoEConfig(n_experts=4).build(D)
    assert "experts choose tokens" in chosen.why_no_slots()
    dense = DenseConfig().build(D)
    assert dense.why_no_slots() is None
    dense.w_out = LoRALinear(dense.w_out, 2)
    assert "low-rank adapters" in dense.why_no_slots()


@torch.no_grad()
def test_engram_by_its_formula(x):
    """A token and a table at a time; no convolution yet, as it starts."""
    layer = CONFIGS["engram"].build(D).double().eval()
    rows = layer.find_rows(TOKENS)[0]
    slots = layer.slots(x, TOKENS)
    written = layer.written(x, slots)
    norm = nn.functional.rms_norm
    for t in range(T):
        e = torch.cat([layer.values[row] for row in rows[t]])
        agree = norm(x[t], (D,)) @ norm(layer.w_key.weight @ e, (D,)) / 4
        assert float(slots.gates[t, 0]) == pytest.approx(float(agree.sigmoid()), rel=1e-9)
        for table, row in enumerate(rows[t]):
            assert slots.experts[t, table] == row
            own = layer.w_value.weight[:, 5 * table : 5 * table + 5] @ layer.values[row]
            torch.testing.assert_close(written[t, table], agree.sigmoid() * own)
    assert not layer.beside(x, TOKENS).any()


@torch.no_grad()
def test_stem_by_its_formula(x):
    layer = CONFIGS["stem"].build(D).double().eval()
    slots = layer.slots(x, TOKENS)
    assert torch.equal(slots.experts, IDS.t())
    assert (slots.weights == 1).all()
    opened = nn.functional.silu(x @ layer.w_gate.weight.t()) * layer.values[IDS[0]]
    torch.testing.assert_close(layer.written(x, slots)[:, 0], opened @ layer.w_out.weight.t())


def test_a_layer_that_reads_ids_is_asked_with_them(x):
    layer = CONFIGS["stem"].build(D).double()
    with pytest.raises(ValueError, match="Stem looks at the ids of its tokens, and was called"):
        layer.slots(x)


@torch.no_grad()
def test_all_of_an_expert_but_its_key_is_in_its_rows(layer, x):
    """Where all have the rows of one, every slot of a token writes the same for its gate."""
    rows = layer.expert_rows()
    n = layer.n_experts or 64
    assert {len(table) for table in rows.values()} == {n}
    if isinstance(layer, (Sgatlin, Engram)):
        pytest.skip("a gate is inside of an activation; a table has columns of its own")
    for table in rows.values():
        table[...] = table[3].clone()
    slots = layer.slots(x, TOKENS)
    written = layer.written(x, slots) / slots.gates.unsqueeze(-1)
    torch.testing.assert_close(written, written[:, :1].expand_as(written), rtol=1e-9, atol=1e-12)
    assert written.any()
