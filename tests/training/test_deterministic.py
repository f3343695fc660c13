"""Backward passes are held to deterministic algorithms, and forward passes are warned of."""

from typing import ClassVar

import pytest
import torch

from experiments.benchmarks.core.loop import Sizes, training_loop
from experiments.models.ffn.dense import Dense, DenseConfig
from experiments.points.planning import make_point
from experiments.training.deterministic import set_deterministic, strict_backward
from experiments.training.execute import execute
from tests.conftest import TINY

WARNED, REFUSED = 1, 2  # torch's names for the two modes


class Seen(torch.autograd.Function):
    """Identity; notes the mode that each pass runs in."""

    modes: ClassVar[list[tuple[str, int]]] = []

    @staticmethod
    def forward(ctx, x):
        Seen.modes.append(("forward", torch.get_deterministic_debug_mode()))
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Seen.modes.append(("backward", torch.get_deterministic_debug_mode()))
        return grad


@pytest.fixture(autouse=True)
def as_before():
    Seen.modes.clear()
    yield
    set_deterministic(False)


def _modes():
    return set(Seen.modes)


def test_off_leaves_torch_its_fastest():
    set_deterministic(False)
    with strict_backward():
        Seen.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert _modes() == {("forward", 0), ("backward", 0)}
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_cudnn_s_attention_has_no_deterministic_backward_and_is_off():
    set_deterministic(True)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_an_error_in_backward_leaves_the_mode_as_it_was():
    set_deterministic(True)
    with pytest.raises(RuntimeError, match="does not require grad"), strict_backward():
        torch.ones(1).backward()
    assert torch.get_deterministic_debug_mode() == WARNED


def test_a_run_s_backward_passes_are_strict(compose_raw, tmp_path, monkeypatch):
    """As on a GPU: the mode is set by hand, for a CPU's runs have no need of it."""
    monkeypatch.setattr(
        "experiments.training.fit.set_deterministic", lambda on: set_deterministic(True)
    )
    own = Dense.forward
    monkeypatch.setattr(Dense, "forward", lambda self, x: Seen.apply(own(self, x)))
    paths = (f"paths.results={tmp_path / 'r'}", f"paths.cache={tmp_path / 'c'}")
    settings = ("size=2", "budget=2e9", "trainer.trunk=eager")  # a fused layer is not called
    record = execute(make_point(compose_raw(*settings, *TINY, *paths)))
    assert record.status == "done", record.error
    assert _modes() == {("forward", WARNED), ("backward", REFUSED)}


def test_a_bare_loop_s_are_too():
    set_deterministic(True)
    sizes = Sizes(d_model=32, d_head=16, n_layers=1, vocab_size=64, seq_len=8, sequences=2)
    loop = training_loop(sizes.model(DenseConfig()), sizes, device="cpu", kernel="torch")
    loop.model.blocks[0].ffn.register_forward_hook(lambda _, x, y: Seen.apply(y))
    loop.step()
    assert _modes() == {("forward", WARNED), ("backward", REFUSED)}
