"""What the parts compute from what they measure, and that they see what they are there for."""

import time
from contextlib import nullcontext

import pytest
import torch

from experiments.benchmarks.core.loop import Loop, Sizes, at_equal_flops
from experiments.benchmarks.core.roofline import Floor
from experiments.gpu.check import Check
from experiments.gpu.job import Job
from experiments.gpu.kernel_checks import small
from experiments.gpu.parts import basics, kernels, layer, model, resume, steps
from experiments.gpu.report import DONE, FAILED, Report
from experiments.gpu.timed import make_loop
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.training.deterministic import set_deterministic


@pytest.fixture
def job(tmp_path):
    report = Report(tmp_path, {"card": "none", "toy": True})
    report.begin("part")
    deadline = time.monotonic() + 600
    return Job(part="part", device="cpu", toy=True, report=report, deadline=deadline)


def _ended(job):
    job.report.end("part", DONE, 0)
    return job.report.parts["part"]


def test_a_wrong_kernel_fails_the_part(job, monkeypatch):
    pytest.importorskip("triton")
    from experiments.kernels.triton_kernel import Triton

    (check, *_) = (c for c in small() if c.kernel == "row AdamW")
    monkeypatch.setattr(kernels, "_toy", lambda: [check])
    right = Triton.row_adamw

    def wrong(self, table, moments, rows, gradient, step):
        right(self, table, moments, rows, 1.001 * gradient, step)

    kernels.run(job)
    assert _ended(job)["status"] == DONE
    monkeypatch.setattr(Triton, "row_adamw", wrong)
    kernels.run(job)
    entry = _ended(job)
    assert entry["status"] == FAILED
    assert "row AdamW: largest error over its tolerance" in entry["why"]


def test_an_unrepeatable_kernel_fails_the_part(job, monkeypatch):
    unsteady = Check(
        kernel="unsteady",
        case="one",
        inputs=lambda device: (),
        run=lambda: [torch.randn(3)],
        deviations=lambda results: [],
    )
    monkeypatch.setattr(kernels, "_toy", lambda: [unsteady])
    kernels.run(job)
    assert _ended(job)["why"] == "wrong: unsteady: cases with other bits in 2 runs"


@pytest.mark.parametrize("lost", ["optimizer", "n_done"])
@pytest.mark.parametrize("repeats", [True, False])
def test_a_lossy_resume_is_seen(job, monkeypatch, lost, repeats):
    whole = Loop.load

    def load(self, state):
        whole(self, {**state, lost: Loop.state(self)[lost]})

    monkeypatch.setattr(Loop, "load", load)
    one = resume._layers(small=True)["PEER, rows"]
    monkeypatch.setattr(resume, "_layers", lambda small: {"PEER, rows": one})
    if not repeats:  # as where a card's own noise hides it from the weights
        monkeypatch.setattr(resume, "_differing", lambda a, b: 1)
    try:
        resume.run(job)
    finally:
        set_deterministic(False)
    entry = _ended(job)
    assert entry["status"] == FAILED
    assert "PEER, rows: tensors of the state that loading lost" in entry["why"]


def test_an_equal_model_has_dense_s_flops():
    for make in steps._layers(small=False).values():
        config, d_key = at_equal_flops(make, steps.PAPER)
        assert config.d_key == d_key
        share = steps.PAPER.model(config).cost().training_flops
        share /= steps.PAPER.model(DenseConfig()).cost().training_flops
        assert share == pytest.approx(1, abs=0.001)


def test_a_layer_that_can_not_be_as_cheap_is_refused():
    sizes = Sizes(d_model=32, d_head=16, n_layers=2, vocab_size=64, seq_len=8, sequences=2)
    with pytest.raises(ValueError, match="of dense at d_key=2; fewer experts"):
        at_equal_flops(lambda d: PEERConfig(n_experts=1024**2, d_key=d), sizes)


def test_the_small_gpt_is_gpt2_s():
    config = model.GPT2.model(DenseConfig())
    n = config.cost().n_params
    assert n == pytest.approx(124e6, rel=0.005)
    # llm.c: 463,000 tokens/s are 40 % of 989e12
    assert 463e3 * model._usual_flops(config) / 989e12 == pytest.approx(0.40, abs=0.005)
    assert model._usual_flops(config) == 6 * n + 12 * 12 * 768 * 1024


def test_a_floor_is_bytes_at_a_copy_s_rate_and_products():
    floor = Floor(
        name="", n_bytes=600, query_flops=40, keys_flops=90, gathers=1, query=1, keys=1
    ).as_json()
    assert layer._floor(floor, {"square": 20, "square_keys": 30}, copy=200) == 3 + 2 + 3


@pytest.mark.parametrize("gradient", ["dense", "rows", "fused"])
def test_the_loop_learns(job, gradient):
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    sizes = Sizes(d_model=32, d_head=16, n_layers=2, vocab_size=64, seq_len=8, sequences=2)
    loop = make_loop(job, sizes.model(peer), sizes, gradient=gradient, lr=1e-2, spread=False)
    table = loop.model.blocks[0].ffn.w_down
    before = table.detach().clone()
    losses = [float(loop.step()) for _ in range(40)]
    assert losses[-1] < losses[0] - 1, "it knows its four batches by heart"
    assert not torch.equal(table, before)


def test_the_basics_see_products_of_another_type(job, monkeypatch):
    """Token choice as it was under autocast before: in float32."""
    monkeypatch.setattr(basics, "_attention", lambda job: None)
    fine = basics._layers(small=True)["fine MoE"]
    monkeypatch.setattr(basics, "_layers", lambda small: {"fine MoE": fine})
    name, shares = "fine MoE: share of products in bfloat16", []
    for wrong in (False, True):
        if wrong:
            monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext(), raising=True)
        job.report.begin("part")
        basics.run(job)
        found = {m["name"]: m["value"] for m in _ended(job)["measurements"]}
        shares.append(found[name])
    assert shares[0] > 0.9
    assert shares[1] == 0


def test_tf32_fails_the_basics(job, monkeypatch):
    def product(left, right):  # of float32 by factors of 10 bits, not 23
        if left.dtype == torch.float32:
            left = (left.view(torch.int32) & ~0x1FFF).view(torch.float32)
        return torch.mm(left, right)

    basics._float32(job)
    assert _ended(job)["status"] == DONE
    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    basics._float32(job)
    assert _ended(job)["status"] == FAILED
