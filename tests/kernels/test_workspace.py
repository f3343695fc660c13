"""Memory that is used again is nobody's, and a training loop does not grow."""

import gc
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.benchmarks.core.loop import OPTIM
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import Workspace, use_huge_pages
from experiments.models.ffn.peer import PEERConfig
from experiments.optim.groups import optimizers
from experiments.optim.optimizer import GroupedOptimizer

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


def _mapping(address: int) -> dict[str, str]:
    """What /proc/self/smaps says of the mapping that holds an address."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", name):
            begin, end = (int(part, 16) for part in name.split("-"))
            found = {"flags": rest.split()[0]} if begin <= address < end else {}
        elif found:
            found[name.rstrip(":")] = rest.strip()
        if name == "VmFlags:" and found:
            return found
    raise AssertionError(f"{address:x} is in no mapping")


def test_a_forked_child_does_not_write_into_its_parent():
    tensor = _filled(Workspace(), 16 * MB, 1.0)
    assert _mapping(tensor.data_ptr())["flags"] == "rw-p"
    child = os.fork()
    if child == 0:
        tensor.numpy()[:] = 7
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (tensor == 1).all()


def test_blocks_are_in_huge_pages():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("this kernel gives no huge pages")
    tensor = _filled(Workspace(), 64 * MB, 1.0)
    mapping = _mapping(tensor.data_ptr())
    if "THPeligible" not in mapping:
        pytest.skip("this kernel does not say what may be in huge pages")
    assert mapping["THPeligible"] == "1"
    assert "hg" in mapping["VmFlags"].split()
    if mapping["AnonHugePages"] == "0 kB":
        pytest.skip("this machine had no huge page free")
    assert int(mapping["AnonHugePages"].split()[0]) >= 2 * 1024


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("way", ["dense", "rows", "fused"])
@pytest.mark.parametrize("kernel", ["cpp", pytest.param("torch", marks=pytest.mark.long)])
def test_no_growth_over_100_steps(kernel, way):
    """9 MB of table each, so that dense gradients are blocks of the workspace."""
    layer = PEERConfig(n_experts=96**2, n_heads=2, top_k=8, d_key=16).build(256)
    tables = [layer.w_down, layer.w_up]
    others = [p for p in layer.parameters() if all(p is not t for t in tables)]
    adamw, rows, _ = optimizers(replace(OPTIM, table_gradient=way))
    shared = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.95), "eps": 1e-8}
    by = adamw if way == "dense" else rows
    groups = ({"by": adamw, "params": others}, {"by": by, "params": tables})
    optimizer = GroupedOptimizer([{**shared, **group} for group in groups])
    layer.execution = Execution(
        kernel=kernel,
        gradient="dense" if way == "dense" else "rows",
        update=optimizer.update if way == "fused" else None,
    )
    resident = []
    for step in range(100):
        n_tokens = 64 + 16 * (step % 5)  # sizes that change, as gradients of rows do
        layer(torch.randn(1, n_tokens, 256)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (30, 99):
            gc.collect()
            resident.append(_resident())
    # a leak of one gradient of rows (4 MB) in ten steps would be 28 MB
    assert resident[1] - resident[0] < 24 * MB
