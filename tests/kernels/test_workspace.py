"""Memory that is used again is nobody's, and a training loop does not grow."""

import gc
import os
from pathlib import Path

import pytest
import torch

from experiments.kernels.memory import Workspace, use_huge_pages
from experiments.kernels.ops import Execution
from experiments.models.ffn.peer import PEERConfig
from experiments.optimizer import RowAdamW

MB = 2**20


def _filled(workspace, n_bytes, value):
    return workspace.empty((n_bytes // 4,), torch.float32).fill_(value)


def test_a_block_is_used_again_once_nobody_has_it():
    workspace = Workspace()
    first = _filled(workspace, 16 * MB, 1.0)
    where = first.data_ptr()
    view = first[:10].view(2, 5)
    del first
    second = _filled(workspace, 16 * MB, 2.0)
    assert second.data_ptr() != where, "a view was left without its memory"
    assert (view == 1).all()
    del view
    third = _filled(workspace, 12 * MB, 3.0)
    assert third.data_ptr() == where
    assert (second == 2).all()


def test_small_tensors_are_ordinary_and_all_have_the_type_and_shape_asked_for():
    workspace = Workspace()
    for shape in ((3, 5), (1024, 4096), (0, 4)):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            tensor = workspace.empty(shape, dtype)
            assert tensor.shape == shape
            assert tensor.dtype == dtype
            assert tensor.is_contiguous()


def test_what_is_kept_is_bounded_by_what_was_used():
    workspace = Workspace()
    for size in (64, 24, 48, 9, 100, 12):
        held = [_filled(workspace, size * MB, 0.0), _filled(workspace, size * MB, 0.0)]
        del held
    kept = sum(map(len, workspace._idle))
    assert kept <= 1.5 * 200 * MB
    workspace.release()
    assert not workspace._idle


def test_huge_pages_leave_what_is_there():
    for n in (10, 3 * MB, 5 * MB + 3):
        tensor = torch.arange(n)
        use_huge_pages(tensor)
        assert torch.equal(tensor, torch.arange(n))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("way", ["dense", "rows", "fused"])
@pytest.mark.parametrize("kernel", ["cpp", "torch"])
def test_no_growth_over_200_steps(kernel, way):
    """16 MB of table each, so that gradients are blocks of the workspace."""
    layer = PEERConfig(n_experts=128**2, n_heads=2, top_k=8, d_key=16).build(256)
    tables = [layer.w_down, layer.w_up]
    others = [p for p in layer.parameters() if all(p is not t for t in tables)]
    optimizer = RowAdamW(
        [{"params": others}, {"params": tables, "rows": None if way == "dense" else way}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    layer.execution = Execution(
        kernel=kernel,
        gradient="dense" if way == "dense" else "rows",
        update=optimizer.update if way == "fused" else None,
    )
    resident = []
    for step in range(200):
        n_tokens = 64 + 16 * (step % 5)  # sizes that change, as gradients of rows do
        layer(torch.randn(1, n_tokens, 256)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (60, 199):
            gc.collect()
            resident.append(_resident())
    # a leak of one gradient of rows (4 MB) in ten steps would be 56 MB
    assert resident[1] - resident[0] < 24 * MB
