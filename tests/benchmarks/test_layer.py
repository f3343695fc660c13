"""Contenders of the layer's benchmark that are halves of a block, and their floor."""

import pytest
import torch
from torch import nn

from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.contenders import HALF, halves, make_half, passes
from experiments.benchmarks.core.rates import Rates
from experiments.benchmarks.core.roofline import compute_floors
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.kernels.build import BuildError, load
from tests.benchmarks.test_bench import SHAPE


def _has_compiler():
    try:
        load()
    except BuildError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not _has_compiler(), reason="no C++ compiler")


def _settings(*kernels, device="cpu"):
    return Settings(
        device=device, rounds=1, kernels=kernels, huge_pages=True, table_dtype=torch.float32
    )


def _case():
    return Case(SHAPE, _settings("cpp"))


@needs_compiler
def test_a_half_is_the_layer_of_the_norm_and_a_residual():
    case = _case()
    make_half(case, case.peer)()
    wanted_x = case.x.grad
    wanted = {name: p.grad.to_dense() for name, p in case.peer.named_parameters()}
    case.drop_gradients()
    norm, layer = nn.RMSNorm(SHAPE.d_model), case.peer
    (case.x + layer(norm(case.x))).backward(case.upstream)
    torch.testing.assert_close(case.x.grad, wanted_x, rtol=1e-4, atol=1e-4)
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(
            parameter.grad.to_dense(), wanted[name], rtol=1e-4, atol=1e-4, msg=name
        )


@needs_compiler
def test_the_half_with_batch_norm_reads_the_tables_of_the_others():
    case = _case()
    plain, normed = halves(case, "naive")
    assert [plain.name, normed.name] == [HALF, f"{HALF}, batch norm"]
    normed.make()()
    assert case.peer.w_down.grad.is_sparse
    assert case.peer.query.weight.grad.norm() > 0
    used = len(case.peer.w_up.grad.coalesce().indices()[0])
    assert 0.8 * case.n_distinct < used <= SHAPE.n_experts
    case.drop_gradients()
    assert case.x.grad is case.peer.w_down.grad is None


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (SHAPE, _settings("torch")),
        (SHAPE, _settings("triton", device="cuda")),
        (Shape(d_model=34, n_experts=256, n_tokens=64, n_heads=2, top_k=4, d_key=32), None),
        (Shape(d_model=32, n_experts=256, n_tokens=64, n_heads=1, top_k=4, d_key=8), None),
    ],
)
def test_where_it_is_not_fused_it_takes_no_part(shape, settings):
    entries = passes(Case(shape, settings or _settings("cpp", "torch")), ())
    assert not any(entry.name.startswith(HALF) for entry in entries)


def test_its_floor_has_the_residual_stream():
    rates = Rates(
        copy=80e9,
        rows=28e9,
        square=214e9,
        square_keys=410e9,
        query=(214e9,) * 3,
        keys=410e9,
        query_type="float32",
        keys_type="bfloat16",
    )
    shape = Shape(d_model=256, n_experts=2**20, n_tokens=4096, n_heads=8, top_k=16, d_key=256)
    layer, half = (
        compute_floors(family, shape, 410_000, 1024, rates)[0] for family in ("PEER", "PEER half")
    )
    assert half.stream_bytes == 4 * 4096 * 256 * 4
    assert half.total - layer.total == pytest.approx(half.stream_bytes / 80e9)
    assert "residual stream" in half.describe()
    assert "residual stream" not in layer.describe()
