"""A gated memory written out; against PKM of PyPI between its maps; and tiny runs."""

import pytest
import torch
import torch.nn.functional as F

from experiments.benchmarks.core.rivals import product_key_memory
from experiments.init import grow
from experiments.kernels.ops import Execution
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.pkm import PKMConfig
from tests.models.ffn.lives import assert_text_goes_on_as_without_a_cache, by_the_command, child_of
from tests.models.ffn.reference import assert_same, normed, with_random_norm

D, SMALL = 12, {"n_experts": 36, "n_heads": 3, "top_k": 5, "d_key": 8}


def written_out(layer, x, query_norm):
    """Each token by itself, by a scan over all keys."""
    tokens, i = x.reshape(-1, D), torch.arange(36)
    queries = (tokens @ layer.query.weight.t()).view(len(tokens), layer.n_heads, -1)
    queries = normed(queries, query_norm, layer.query_norm.norm)
    out = []
    for t, token in enumerate(tokens):
        memory = torch.zeros_like(token)
        for h in range(layer.n_heads):
            first, second = layer.sub_keys[h] if layer.sub_keys.dim() == 4 else layer.sub_keys
            scores = torch.cat([first[i // 6], second[i % 6]], dim=-1) @ queries[t, h]
            best = scores.topk(layer.top_k)
            for gate, j in zip(layer.score(best.values), best.indices, strict=True):
                memory = memory + gate * layer.values[j]
        opened = layer.w_gate.weight @ token
        out.append(layer.w_out.weight @ (memory * opened * torch.sigmoid(opened)))
    return torch.stack(out).view_as(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"share_keys": False, "query_norm": "layer"},
        {"query_norm": "none", "score": "sigmoid"},
        {"n_heads": 1, "top_k": 36, "score": "relu"},
    ],
    ids=str,
)
def test_output_and_gradients_are_those_written_out(options):
    layer = with_random_norm(MemoryPlusConfig(**{**SMALL, **options}).build(D).double())
    x = torch.randn(2, 4, D, dtype=torch.float64)
    assert_same(layer, lambda x: written_out(layer, x, options.get("query_norm", "batch")), x)


def test_it_is_the_memory_of_pypi_gated():
    pytest.importorskip("product_key_memory", reason="product-key-memory is not installed")
    options = {**SMALL, "query_norm": "none", "share_keys": False}
    layer, memory = (c(**options).build(D).double() for c in (MemoryPlusConfig, PKMConfig))
    with torch.no_grad():
        for name in ("sub_keys", "values", "query.weight"):
            memory.get_parameter(name).copy_(layer.get_parameter(name))
    rival, x = product_key_memory(memory).double(), torch.randn(2, 7, D, dtype=torch.float64)
    expected = layer.w_out(rival(x) * F.silu(layer.w_gate(x)))
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", ["dense", "rows"])
@pytest.mark.parametrize("kernel", ["torch", "auto"])
def test_kernels_and_gradients_of_rows_are_the_references(kernel, gradient):
    """Tables of 16 bits too: their rows are read as they are, and summed in float32."""
    for dtype in ("float32", "bfloat16"):
        layer = MemoryPlusConfig(**SMALL, table_dtype=dtype).build(D)
        x, found = torch.randn(2, 9, D), []
        for how in (Execution(kernel="reference"), Execution(kernel=kernel, gradient=gradient)):
            layer.zero_grad()
            layer.execution = how
            y = layer(x)
            y.square().sum().backward()
            found.append([y.detach(), *(p.grad.to_dense().clone() for p in layer.parameters())])
        for reference, fast in zip(*found, strict=True):
            rounding = 2e-2 if fast.dtype == torch.bfloat16 else 1e-4
            size = float(reference.abs().max())
            torch.testing.assert_close(fast, reference, rtol=rounding, atol=rounding * size)


def test_costs_by_hand():
    """d=1024: N=1024², four heads of 32, d_key=256."""
    d, h, k, q, n = 1024, 4, 32, 256, 1024**2
    cost = MemoryPlusConfig().cost(d)
    routing = d * h * q + 1024 * q + 2 * h * q
    assert cost.n_params == routing + n * d + 2 * d**2
    assert cost.n_active_params == routing + h * k * d + 2 * d**2
    of_router = 2 * d * h * q + 2 * h * 1024 * q + h * k**2
    assert cost.forward_flops == of_router + 2 * h * k * d + 4 * d**2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 1000}, "n_experts=1000 must be a perfect square"),
        ({"n_experts": 4}, "top_k=32 must be at most n_experts=4"),
        ({"d_key": 7}, "d_key=7 must be even"),
        ({"n_heads": 0}, "n_heads=0 must be at least 1"),
        ({"score": "max"}, "score='max' is not one of"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of"),
    ],
)
def test_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        MemoryPlusConfig(**options)
    assert "\n" not in str(refusal.value)


def test_it_is_eager_by_name_and_grows_as_other_product_keys_do():
    layer, x = MemoryPlusConfig(**SMALL).build(D).eval(), torch.randn(1, 9, D)
    assert layer.why_not_fused() == "MemoryPlus has no fused form"
    grown = grow(layer, 72)
    assert grown.values.shape == (72, D)
    assert torch.equal(grown(x), layer(x))
    with pytest.raises(ValueError, match="must be a multiple of"):
        grow(layer, 73)


@pytest.mark.long
def test_a_run_learns_goes_on_grows_and_starts_beside_another(run, compose_raw, tmp_path):
    small = ("model=memory_plus", "n_experts=64", "model.top_k=4", "model.d_key=8")
    small += ("model.query_norm=layer",)
    run_dir, before = by_the_command(run, tmp_path, *small)
    assert before.usage > 0
    assert_text_goes_on_as_without_a_cache(run_dir)
    grown = child_of(compose_raw, run_dir, "n_experts=512", "init.how=bias", "init.train=all")
    assert grown.before["validation"]["loss"] == before.val_loss
    assert (grown.n_experts, grown.init["moments"]) == (512, True)
    for train in ("layer", "tables"):
        way = ("trunk.ffn_blocks=[1]", "init.how=beside", f"init.train={train}")
        beside = child_of(compose_raw, run_dir, *small, *way)
        assert beside.init["exact"] is True
        assert beside.before["validation"]["loss"] == before.val_loss
        assert beside.val_loss < before.val_loss
