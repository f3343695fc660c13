"""Memory that the kernels work in: as much as they ask for is enough, and none is read before it is
written; and threads, of which any number gives the same bits.

All of it is full of one byte here, and has a guard on both sides. Results must be those in other
memory, to the bit.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.kernels import cpp, mixture, product_key_layer, trunk_passes
from experiments.kernels.cpp import Cpp
from experiments.kernels.interface import AdamWStep
from experiments.kernels.trunk_passes import TrunkKernel
from tests.kernels.implementations import Given
from tests.kernels.product_key_formulas import D, layer_of
from tests.kernels.test_mixture import CASES as MIXTURES
from tests.kernels.test_mixture import gradients as of_mixture
from tests.kernels.trunk_formulas import attention_case, head_case, mlp_case, trunk_levels

LEVELS = trunk_levels()
GUARD = 4096  # bytes

pytestmark = pytest.mark.skipif(not LEVELS, reason="no C++ compiler")


class Guarded:
    """Stands for a module's WORKSPACE, or for its torch: empty memory is not what it seems."""

    def __init__(self, full: int) -> None:
        self.full = full
        self.blocks: list[tuple[Tensor, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, *shape: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        if len(shape) == 2 and isinstance(shape[1], torch.dtype):  # as a Workspace is called
            shape, dtype = shape[0], shape[1]
        shape = torch.Size(shape[0] if isinstance(shape[0], list | tuple) else shape)
        n_bytes = math.prod(shape) * dtype.itemsize
        block = torch.full((n_bytes + 2 * GUARD + 64,), self.full, dtype=torch.uint8)
        begin = GUARD + -(block.data_ptr() + GUARD) % 64
        self.blocks.append((block, begin, begin + n_bytes))
        return block[begin : begin + n_bytes].view(dtype).view(shape)

    def check(self) -> None:
        assert self.blocks
        for block, begin, end in self.blocks:
            assert (block[:begin] == self.full).all(), "written before its beginning"
            assert (block[end:] == self.full).all(), "written behind its end"


def _product_keys(kind: str, n_tokens: int, level: str, **fields: Any) -> list[Tensor]:
    layer, norm = layer_of(kind, **fields), nn.RMSNorm(D)
    layer.execution = Given(given=Cpp(cpp.load(), level))
    x = torch.randn(n_tokens, D, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = layer.fused_half(x, norm, 0.7)
    y.square().sum().backward()
    found = [y.detach(), x.grad, norm.weight.grad, *(p.grad for p in layer.parameters())]
    return [*found, *layer.buffers()]


def _tables(level: str, dtype: torch.dtype) -> list[Tensor]:
    """A step of AdamW by sums over pairs: of many, of one and of no pairs of a row."""
    kernel, generator = Cpp(cpp.load(), level), torch.Generator().manual_seed(0)
    table, mean, square, x = (torch.rand(40, 19, generator=generator) for _ in range(4))
    idx = torch.randint(0, 30, (40, 60), generator=generator)
    idx[:, :50] = 7  # more pairs than a chunk
    weights = torch.rand(idx.shape, generator=generator)
    segments = kernel.sort(idx, len(table))
    sums = [kernel.row_sums(x, segments, weights, dtype)]
    sums.append(kernel.table_sums(x, segments, weights, dtype))
    state = [t.to(dtype) for t in (table, mean, square)]
    step = AdamWStep(lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, step=3)
    kernel.row_adamw_of_sums(state[0], (state[1], state[2]), x, segments, weights, step)
    dots = [kernel.dot(x, state[0], idx), kernel.weighted_sum(state[0], idx, weights)]
    return [*sums, *state, *dots]


CASES = {
    "mlp": lambda level: mlp_case(97, 64, 171, "gelu", gated=False).results(),
    "gated mlp": lambda level: mlp_case(200, 48, 19, "silu", gated=True).results(),
    "head": lambda level: head_case(97, 48, 1001).results(),
    "head of few": lambda level: head_case(5, 16, 3).results(),
    "attention": lambda level: attention_case(3, 100, 4, 2, 16, documents=True).results(),
    "wide attention": lambda level: attention_case(1, 50, 1, 1, 128).results(),
    **{
        f"mixture, {name}": lambda level, name=name: of_mixture(MIXTURES[name])
        for name in ("odd", "fine", "one each", "an expert has all", "experts choose one")
    },
    "peer": lambda level: _product_keys("peer", 400, level, share_keys=False),
    "glu": lambda level: _product_keys("peer", 97, level, glu=True, n_heads=1, d_key=48),
    "layer norm": lambda level: _product_keys("pkm", 50, level, query_norm="layer"),
    "large k": lambda level: _product_keys("pkm", 50, level, n_experts=1600, top_k=300),
    "no norm": lambda level: _product_keys("pkm", 3, level, query_norm="none", top_k=64),
    "rows": lambda level: _tables(level, torch.float32),
    "rows of bfloat16": lambda level: _tables(level, torch.bfloat16),
}


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Operators run at this level."""
    kernel = TrunkKernel(cpp.load(), request.param)
    for module in (trunk_passes, mixture, product_key_layer):
        monkeypatch.setattr(module, "load_trunk", lambda: kernel)
    return request.param


def results(name, level, rounded):
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        return CASES[name](level)


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("full", [0xFF, 0x7F])  # NaN and -1; 3e38 and 2e9
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_memory_holds_changes_nothing(name, level, rounded, full, monkeypatch):
    wanted, guarded = results(name, level, rounded), Guarded(full)
    for module in (cpp, trunk_passes, mixture, product_key_layer):
        monkeypatch.setattr(module, "WORKSPACE", guarded)
    monkeypatch.setattr(cpp, "torch", guarded)
    found = results(name, level, rounded)
    guarded.check()
    assert_equal(found, wanted)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_threads_gives_the_same_bits(name, level, rounded):
    found = []
    for n_threads in (1, 1, 2, 3):
        torch.set_num_threads(n_threads)
        found.append(results(name, level, rounded))
    for other in found[1:]:
        assert_equal(found[0], other)
