"""Both routings against a loop over tokens and experts; balancing; what is refused."""

import pytest
import torch
import torch.nn.functional as F

from experiments.models.ffn.moe import MoEConfig
from experiments.training.evaluation import metered
from tests.models.ffn.reference import assert_same

D_MODEL = 8


def expert(layer, e, token):
    inner = token @ layer.w_in[e]
    if layer.w_gate is None:
        return layer.activation(inner) @ layer.w_out[e]
    return (layer.activation(token @ layer.w_gate[e]) * inner) @ layer.w_out[e]


def shared(layer, token):
    inner = layer.shared_in.weight @ token
    if layer.shared_gate is None:
        return layer.shared_out.weight @ layer.activation(inner)
    return layer.shared_out.weight @ (layer.activation(layer.shared_gate.weight @ token) * inner)


def naive_expert_choice(layer, x):
    tokens = x.reshape(-1, D_MODEL)
    logits = tokens @ layer.router.weight.t()
    gates = logits.softmax(-1) if layer.config.gate == "softmax" else logits.sigmoid()
    out = [torch.zeros(D_MODEL, dtype=x.dtype) for _ in tokens]
    for e in range(layer.n_experts):
        for t in gates[:, e].topk(layer.config.capacity(len(tokens))).indices.tolist():
            out[t] = out[t] + gates[t, e] * expert(layer, e, tokens[t])
    return torch.stack(out).view_as(x)


def naive_token_choice(layer, x):
    tokens = x.reshape(-1, D_MODEL)
    logits = tokens @ layer.router.weight.t()
    gates = logits.softmax(-1) if layer.config.gate == "softmax" else logits.sigmoid()
    out = []
    for t, token in enumerate(tokens):
        chosen = (gates[t] + layer.selection_bias).topk(layer.config.top_k).indices
        total = gates[t, chosen].sum() if layer.config.top_k > 1 else 1.0
        y = sum(gates[t, e] / total * expert(layer, e, token) for e in chosen)
        if layer.shared_in is not None:
            y = y + shared(layer, token)
        out.append(y)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize(
    ("options", "naive"),
    [
        ({"gate": "softmax"}, naive_expert_choice),
        ({"gate": "sigmoid", "capacity_factor": 2.0}, naive_expert_choice),
        ({"routing": "token_choice"}, naive_token_choice),
        ({"routing": "token_choice", "top_k": 3, "gate": "sigmoid"}, naive_token_choice),
        (
            {"routing": "token_choice", "top_k": 2, "granularity": 4.0, "n_shared_experts": 2},
            naive_token_choice,
        ),
        ({"glu": True, "activation": "silu"}, naive_expert_choice),
        (
            {"routing": "token_choice", "top_k": 2, "glu": True, "n_shared_experts": 1},
            naive_token_choice,
        ),
    ],
)
def test_output_and_gradients_are_the_loops(options, naive):
    layer = MoEConfig(n_experts=4, **options).build(D_MODEL).double()
    x = torch.randn(2, 8, D_MODEL, dtype=torch.float64)
    assert_same(layer, lambda x: naive(layer, x), x)


def balance_loss(logits_TE, gate, **options):
    """Auxiliary loss, at rate 1, of a layer whose router gives these logits."""
    n_experts = logits_TE.shape[-1]
    config = MoEConfig(
        n_experts=n_experts,
        routing="token_choice",
        gate=gate,
        balance="loss",
        balance_rate=1.0,
        **options,
    )
    layer = config.build(n_experts)
    layer.router = torch.nn.Identity()
    layer.router.weight = torch.eye(n_experts)
    layer(logits_TE.unsqueeze(0))
    return layer.auxiliary_loss()


def test_auxiliary_loss_is_fedus_eq_4():
    logits = torch.randn(32, 4)
    probabilities = logits.softmax(-1)
    share = F.one_hot(probabilities.argmax(-1), 4).float().mean(0)
    expected = 4 * (share * probabilities.mean(0)).sum()
    torch.testing.assert_close(balance_loss(logits, "softmax"), expected)


def test_auxiliary_loss_of_sigmoid_gates_is_deepseek_v3_s():
    """arXiv:2412.19437, Eq. 17-20: f_i over the K chosen, P_i of gates divided by their sum."""
    logits = torch.randn(32, 4)
    expected = 0.0
    gates = logits.sigmoid()
    for e in range(4):
        f = 4 / (2 * 32) * sum(e in gates[t].topk(2).indices for t in range(32))
        expected += f * sum(gates[t, e] / gates[t].sum() for t in range(32)) / 32
    torch.testing.assert_close(balance_loss(logits, "sigmoid", top_k=2), expected)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_a_collapsed_router_has_a_higher_balance_loss_however_low_its_gates(gate):
    n = 8
    balanced = 4 * torch.eye(n).repeat(4, 1)  # every expert the favourite of as many tokens
    collapsed = 4 * F.one_hot(torch.zeros(4 * n, dtype=torch.long), n).float()
    assert balance_loss(balanced, gate) == pytest.approx(1.0, rel=1e-5)
    for lower in (0.0, 4.0, 8.0, 60.0):
        assert balance_loss(collapsed - lower, gate) > 1.4 * balance_loss(balanced - lower, gate)
        assert balance_loss(balanced - lower, gate) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_the_balance_loss_alone_evens_the_load(gate):
    config = MoEConfig(
        n_experts=8, routing="token_choice", top_k=2, gate=gate, balance="loss", balance_rate=1.0
    )
    layer = config.build(D_MODEL)
    x = torch.randn(1, 256, D_MODEL) + 1.0  # a common direction: some experts are favourites
    adam = torch.optim.Adam(layer.router.parameters(), lr=1e-2)
    uneven = []
    for _ in range(300):
        layer.load.zero_()
        layer(x)
        uneven.append(float(layer.load.max() / layer.load.mean()))
        adam.zero_grad()
        layer.auxiliary_loss().backward()
        adam.step()
    assert uneven[0] > 1.4
    assert uneven[-1] < 1.1


def test_bias_evens_out_the_load():
    config = MoEConfig(
        n_experts=8, routing="token_choice", gate="sigmoid", balance="bias", balance_rate=1e-2
    )
    layer = config.build(D_MODEL)
    x = torch.randn(1, 512, D_MODEL) + 1.0  # a common direction: some experts are favourites
    spread = []
    for _ in range(200):
        layer(x)
        spread.append(float(layer.load.max() / layer.load.mean()))
        layer.after_step()
    assert spread[0] > 1.8
    assert min(spread[-10:]) < 1.25
    assert layer.load.sum() == 0


def test_refuses_a_batch_that_cannot_be_shared_out():
    with pytest.raises(ValueError, match=r"n_experts=128 0\.5 of the 64 tokens of a forward"):
        MoEConfig().check_batch(64)
    MoEConfig().check_batch(128)


@pytest.mark.parametrize("n_shared", [1, 4])
def test_shared_experts_start_as_experts_do(n_shared):
    """Each is one beside the others: a fan-in of one expert's hidden units, whatever their number.

    Of 8,192 numbers or more, so the size is known to 1 %.
    """
    config = MoEConfig(n_experts=4, n_shared_experts=n_shared, width_factor=2.0, glu=True)
    layer = config.build(64)
    assert layer.shared_out.weight.shape == (64, n_shared * 128)
    for name, matrix in layer.named_parameters():
        fan_in = 128 if "out" in name else 64
        size = 1 if name == "router.weight" else float(matrix.detach().std() * fan_in**0.5)
        assert size == pytest.approx(1, rel=0.05), name


FUSED = [
    {"gate": "sigmoid", "capacity_factor": 2.0},
    {"gate": "softmax", "glu": True, "activation": "silu", "n_shared_experts": 1},
    {"routing": "token_choice", "top_k": 3, "gate": "sigmoid", "balance": "bias"},
    {"routing": "token_choice", "top_k": 2, "balance": "loss", "n_shared_experts": 2},
    {"routing": "token_choice", "granularity": 3.0, "glu": True},
]


@pytest.mark.parametrize("options", FUSED, ids=str)
def test_the_fused_half_trains_as_the_layer_does(options):
    rate = {"balance_rate": 0.01} if options.get("balance") else {}
    config = MoEConfig(n_experts=6, **options, **rate)
    results = []
    for fused in (False, True):
        torch.manual_seed(1)
        layer, norm = config.build(32), torch.nn.RMSNorm(32)
        assert layer.why_not_fused() is None
        optimizer = torch.optim.SGD([*layer.parameters(), *norm.parameters()], lr=0.1)
        losses = []
        with metered([layer]) as (meter,):
            for _ in range(5):
                x, wanted = torch.randn(2, 3, 20, 32)
                y = layer.fused_half(x, norm, 0.5) if fused else x + 0.5 * layer(norm(x))
                loss = (y - wanted).square().mean()
                extra = layer.auxiliary_loss()
                (loss if extra is None else loss + extra).backward()
                losses.append(loss.item())
                optimizer.step()
                optimizer.zero_grad()
                load = layer.load.clone()
                layer.after_step()
        state = [*layer.state_dict().values(), norm.weight.detach(), load]
        results.append([torch.tensor(losses), meter.weight, *state])
    for eager, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-4, atol=1e-5)


def test_in_an_export_and_in_evaluation_the_fused_half_counts_no_load():
    config = MoEConfig(
        n_experts=4, routing="token_choice", top_k=2, balance="loss", balance_rate=0.1
    )
    layer, norm = config.build(16), torch.nn.RMSNorm(16)
    x = torch.randn(1, 8, 16)
    layer.eval().fused_half(x, norm, 1.0)
    layer.train().balances = False
    layer.fused_half(x, norm, 1.0)
    assert layer.auxiliary_loss() is None
    assert not layer.load.any()
