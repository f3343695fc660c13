"""bench trunk: what is timed computes the same, in processes side by side, and adds up."""

import json
import os
from dataclasses import replace
from functools import partial
from statistics import median

import pytest
import torch

from experiments import bench
from experiments.benchmarks.core import timing
from experiments.benchmarks.core.agreement import check_passes
from experiments.benchmarks.core.jax_loop import JAX, JaxLoop, why_not_jax
from experiments.benchmarks.core.loop import OPTIM, Loop, Sizes
from experiments.benchmarks.core.sides import Sides, repeated
from experiments.benchmarks.trunk import EAGER, SHAPES, Training, Work
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import why_not_fused
from experiments.optim.groups import build_optimizer
from tests.conftest import TINY
from tests.json_page import check

SIZES = Sizes(
    d_model=32, d_head=16, n_layers=2, vocab_size=64, seq_len=8, sequences=2, tie_head=False
)
PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
FUSED = why_not_fused() is None
NO_JAX = why_not_jax(SIZES.model(DenseConfig()), SIZES)
needs_jax = pytest.mark.skipif(NO_JAX is not None, reason=str(NO_JAX))


def work(ffn=None, sizes=SIZES):
    return Work(title="toy", transformer=sizes.model(ffn or DenseConfig()), sizes=sizes)


@pytest.fixture(autouse=True)
def _no_jax(monkeypatch):
    """Where jax is installed it takes seconds to begin; its own tests let it."""
    why = "jax float32 is left out: it is slow to begin"
    monkeypatch.setattr("experiments.benchmarks.trunk.why_not_jax", lambda *_: why)


@pytest.mark.parametrize("ffn", [DenseConfig(), PEER], ids=["dense", "PEER"])
def test_contenders_compute_the_same(ffn):
    training = Training(work(ffn))
    fused = ["fused float32", "fused bf16"] if FUSED else []
    assert training.contenders() == [EAGER, "eager bf16", *fused]
    lines = training.check()
    assert sum(line.startswith(f"against {EAGER}") for line in lines) == 1 + len(fused)
    assert "jax float32 is left out: it is slow to begin" in lines
    assert any("distinct experts" in line for line in lines) == (ffn is PEER)
    assert all(p.grad is None for p in training.model.parameters())


def test_another_step_is_not_timed():
    training = Training(work())
    training.loops["eager bf16"].batches = SIZES.batches(1)  # of other tokens
    with pytest.raises(RuntimeError, match="eager bf16 computes something else: gradients"):
        training.check()


def test_gradients_are_those_of_the_same_parameters():
    one, other = {"w": torch.ones(2)}, {"w": torch.ones(2), "v": torch.zeros(2)}
    with pytest.raises(RuntimeError, match="rival has other parameters: v"):
        check_passes({"rival": ((1.0, one), 0.1)}, (1.0, other))
    apart = {"w": torch.tensor([1.0, 1.5])}
    (line,) = check_passes({"rival": ((1.0, apart), 0.4)}, (1.25, one))
    assert line == "rival: gradients 0.35 of their norm apart, losses 0.2"
    for loss in (0.5, float("nan")):
        with pytest.raises(RuntimeError, match="rival computes something else"):
            check_passes({"rival": ((loss, one), 0.4)}, (1.25, one))


@pytest.mark.night
@needs_jax
def test_jax_takes_the_same_steps(monkeypatch):
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, "")  # to be undone
    torch.manual_seed(0)
    model, batches = SIZES.model(DenseConfig()).build(), SIZES.batches(2)
    optim = replace(OPTIM, weight_decay=0.0, grad_clip=0.3)
    jax = JaxLoop(model, [each for (each,) in batches], 0.01, optim)
    ours = Loop(model, batches, build_optimizer(model, 0.01, optim, "auto"), grad_clip=0.3)
    for _ in range(4):
        ours.step()
        jax.step()
    loss = float(ours.backward())
    wanted = loss, {name: p.grad for name, p in model.named_parameters()}
    check_passes({JAX: (jax.passed(), 1e-3)}, wanted)


def test_jax_is_left_out_of_what_it_is_not_written_for():
    for ffn, sizes in ((PEER, SIZES), (DenseConfig(), replace(SIZES, tie_head=True))):
        why = why_not_jax(sizes.model(ffn), sizes)
        assert why == f"{JAX} is left out: it is written for a dense model with a head of its own"


def test_jax_that_is_not_installed_is_named(monkeypatch):
    def no_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("experiments.benchmarks.core.jax_loop.import_module", no_module)
    why = why_not_jax(SIZES.model(DenseConfig()), SIZES)
    assert why is not None
    assert why.startswith("jax float32 is left out (No module named 'jax'): pip install -e '.[ben")


def test_shapes_can_be_fused_whole():
    for sizes, ffn in SHAPES.values():
        assert sizes.model(ffn).d_model % 16 == sizes.d_head % 16 == 0


@pytest.mark.night
def test_two_processes_at_once(tmp_path, capsys):
    """Real command on a run's own shape; a toy, which says nothing about speed."""
    path = tmp_path / "bench.json"
    overrides = ("model=dense", "size=2", "budget=1e9", *TINY)
    short = ("--processes", "2", "--rounds", "1", "--seconds", "0.01")
    bench.main(["trunk", *overrides, *short, "--json", str(path)])
    printed, everything = capsys.readouterr().out, json.loads(path.read_text())
    check(everything)
    assert everything["n_processes"] == 2
    assert everything["processor"] in printed
    (comparison,) = everything["comparisons"]
    assert comparison["shape"]["d_model"] == 32
    names = [c["name"] for c in comparison["contenders"]]
    assert names[0] == EAGER
    assert ("fused bf16" in names) == FUSED
    for c in comparison["contenders"]:
        seconds = [repeat["seconds"] for repeat in c["repeats"]]
        assert len(seconds) == 1
        rate = 2 * comparison["step_flops"] / median(seconds)
        assert c["columns"]["GFLOP/s"] == pytest.approx(rate / 1e9)
        peak = comparison["peak_flops"]["bf16" if "bf16" in c["name"] else "float32"]
        assert c["columns"]["% of peak"] == pytest.approx(100 * rate / peak)
        assert c["columns"]["tokens/s"] == pytest.approx(2 * 4 * 32 / median(seconds))
        assert f"\n  {c['name']}  " in printed


class Fails:
    """On the first core alone."""

    def __init__(self, how: str) -> None:
        self.how = how

    def repeat(self, name: str, seconds: float) -> object:
        if os.sched_getaffinity(0) == {min(os.sched_getaffinity(os.getppid()))}:
            if self.how == "dies":
                os._exit(7)
            raise ValueError("no such contender")
        return repeated(lambda: None, seconds)


@pytest.mark.parametrize(
    ("how", "words"),
    [("raises", "no such contender"), ("dies", "a process of the measurement has died")],
)
def test_a_process_that_fails_ends_the_others(how, words):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: both processes are on it")
    with Sides(2, partial(Fails, how)) as sides, pytest.raises(RuntimeError, match=words):
        sides.call("repeat", "any", 0.0)


def test_the_load_of_the_measuring_processes_is_not_others(monkeypatch):
    clock = {"machine": 10.0, "own": 1.0, "now": 0.0}
    monkeypatch.setattr(timing, "cpu_seconds", lambda: (clock["machine"], clock["own"]))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])
    watch = timing.Watch()
    clock.update(machine=12.5, own=1.1, now=1.0)
    assert watch.others(beside=1.9) == pytest.approx(0.5)
    assert watch.others() == pytest.approx(2.4)
    assert timing.is_quiet(0.1)
    assert not timing.is_quiet(0.5)


def test_a_call_is_repeated_for_so_long(monkeypatch):
    now = [0.0]

    def call():
        now[0] += 0.3

    monkeypatch.setattr("experiments.benchmarks.core.sides.time.perf_counter", lambda: now[0])
    seconds, n, _ = repeated(call, 1.0)
    assert (n, seconds) == (4, pytest.approx(0.3))
    assert repeated(call, 0.0)[1] == 1
