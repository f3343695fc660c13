"""Runs whose trunk torch.compile makes: the runs that they are without it."""

import re

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters

from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.engram import EngramConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import build_optimizer
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training import compiled
from experiments.training.checkpoints import LAST
from experiments.training.compiled import CompileClock, compile_trunk, resolve_compile
from experiments.training.execute import execute
from tests.conftest import Killed, kill_at

SMALL = ("n_experts=64", "model.d_key=8", "model.n_heads=2", "model.top_k=4")
KEYS = {"n_experts": 16, "n_heads": 2, "top_k": 2, "d_key": 4}
LAYERS = {
    "dense": DenseConfig(),
    "none": NoneConfig(),
    "moe": MoEConfig(n_experts=4),
    "moe_fine": MoEConfig(
        n_experts=8, routing="token_choice", top_k=2, granularity=4, balance="bias",
        balance_rate=0.001, gate="sigmoid",
    ),
    "moe_loss": MoEConfig(
        n_experts=8, routing="token_choice", top_k=2, granularity=4, balance="loss",
        balance_rate=0.1,
    ),
    "engram": EngramConfig(n_experts=64, d_row=4),
    "pkm": PKMConfig(**KEYS),
    "peer": PEERConfig(**KEYS),
    "peer_glu": PEERConfig(**KEYS, glu=True, query_norm="layer", share_keys=False),
}  # fmt: skip
ALL_CHOSEN = {
    "moe_all": MoEConfig(n_experts=4, routing="token_choice", top_k=4, granularity=4),
    "peer_all": PEERConfig(**KEYS | {"top_k": 16}),
}

# torch's tracer asks tensors between two graphs for it, and hides the warning from all but pytest
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

# importing inductor defines a module of torch.jit, which torch itself has deprecated
INDUCTOR = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    compiled.why_not.cache_clear()
    yield
    compiled.why_not.cache_clear()


def _model(name, dtype=torch.float32, document_end=None):
    torch.manual_seed(0)
    return TransformerConfig(
        d_model=16, d_head=8, vocab_size=30, seq_len=16, tie_head=False,
        ffns=((LAYERS | ALL_CHOSEN)[name], DenseConfig()), document_end=document_end,
    ).build().to(dtype)  # fmt: skip


def _step(model, forward, *, autocast=False):
    """Logits, the loss's gradients, and what the layers keep of the pass."""
    tokens = torch.randint(30, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = forward(tokens[:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    for layer in model.ffn_layers():
        if layer.auxiliary_loss() is not None:
            loss = loss + layer.auxiliary_loss()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [logits.detach(), loss.detach(), *gradients, *(b.clone() for b in model.buffers())]


def _assert_equal(name, compile_it, tolerance, dtype=torch.float32, autocast=False):
    eager, model = _model(name, dtype), _model(name, dtype)
    expected = _step(eager, eager, autocast=autocast)
    found = _step(model, compile_it(model), autocast=autocast)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        largest = float(b.abs().max()) if b.numel() else 0.0
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * largest)


def _whole(model):
    """As compile_trunk, and an error if the graph breaks."""
    return torch.compile(model.forward, fullgraph=True, dynamic=False)


# aot_eager runs torch's own kernels on the decomposed graph: float32 rounds at most a few sums in
# another order (2**-24 each, over up to 480 addends), float64 likewise at 2**-53
@pytest.mark.parametrize("name", ["moe_fine", "peer"])
def test_the_graph_is_whole_and_the_step_is_eagers_to_rounding_in_float64(eager_backend, name):
    _assert_equal(name, _whole, 1e-12, dtype=torch.float64)
    assert not counters["graph_break"]


@pytest.mark.parametrize("name", ["none", "moe", "moe_loss", "pkm", "peer_glu"])
def test_the_graph_is_whole_and_the_step_is_eagers(eager_backend, name):
    """The second block's layer is dense in all."""
    _assert_equal(name, _whole, 1e-5)
    assert not counters["graph_break"]


@pytest.mark.night
# Inductor takes ten seconds a graph: each layer is compiled once here, a whole step in float32 or
# the layer alone in float64.
@INDUCTOR
@pytest.mark.parametrize("name", ["peer", "moe_fine"])
def test_inductors_step_is_eagers(name):
    """Fused sums, and exponentials of its own that are right to 1e-7."""
    _assert_equal(name, _whole, 1e-5)


@pytest.mark.night
@INDUCTOR
@pytest.mark.parametrize("name", ["moe", "pkm", "dense", "moe_loss", "peer_glu"])
def test_inductors_layer_is_eagers_to_rounding_in_float64(name):
    """A layer alone: attention's rotary angles are float32 in a float64 model too."""

    def run(compile_it):
        torch.manual_seed(0)
        layer = LAYERS[name].build(16).double()
        x = torch.randn(2, 16, 16, dtype=torch.float64, requires_grad=True)
        y = compile_it(layer)(x)
        y.square().sum().backward()
        return [y.detach(), x.grad, *(p.grad for p in layer.parameters())]

    eager = run(lambda layer: layer)
    for a, b in zip(run(_whole), eager, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


@pytest.mark.night
@INDUCTOR
@pytest.mark.parametrize("name", ["peer_all", "moe_all"])
def test_under_autocast_inductors_step_is_eagers_to_bfloat16(name):
    """Inductor keeps in float32 between two products what eager rounds to 8 bits, 2**-9 of itself;
    a few such roundings follow each other, and gradients pass them twice. Every expert is chosen:
    a rounding that decides between two would be another model's step.
    """
    _assert_equal(name, _whole, 2**-4, autocast=True)


@pytest.mark.parametrize("name", ["dense", "engram"])
def test_documents_are_masked_in_the_graph(eager_backend, name):
    eager, model = (_model(name, document_end=3) for _ in range(2))
    expected, found = _step(eager, eager), _step(model, _whole(model))
    torch.testing.assert_close(found[0], expected[0])
    assert not counters["graph_break"]


@pytest.mark.parametrize("way", ["rows", pytest.param("fused", marks=pytest.mark.long)])
def test_tables_that_step_by_rows_are_read_between_graphs(eager_backend, compose_raw, way):
    """Their gradients are nothing that a graph returns; the rest of the trunk is compiled."""
    clip = () if way == "rows" else ("optim.grad_clip=null",)
    optim = make_point(compose_raw(f"optim.table_gradient={way}", *clip)).config.optim

    def train(compile_it):
        model = _model("peer")
        optimizer = build_optimizer(model, 0.01, optim, "auto")
        forward = compile_it(model)
        for _ in range(3):
            _step(model, forward)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return [p.detach() for p in model.parameters()]

    eager, graph = train(lambda model: model), train(compile_trunk)
    assert sum(counters["graph_break"].values()) > 0
    assert counters["stats"]["unique_graphs"] > 1
    for a, b in zip(graph, eager, strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture
def make(make):
    short = ("budget=4.3475e8", "trainer.accelerator=cpu")
    return lambda *overrides, **how: make(*short, *overrides, **how)


PEER = ("model=peer", *SMALL)
COMPILED = (*PEER, "trainer.compile=true")


@pytest.mark.night
def test_a_compiled_run_is_the_run_and_goes_on_from_an_eager_ones_checkpoint(make, eager_backend):
    eager = make(*PEER, folder="eager")
    expected = execute(eager)
    whole = make(*COMPILED, folder="whole")
    counters.clear()
    found = execute(whole)
    assert found.status == "done", found.error
    assert counters["stats"]["unique_graphs"] == 1 + 1  # the probe's, and one shape of the trunk
    assert whole.run_id == eager.run_id
    # float32 sums in another order, and what this many steps of training make of that
    assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-3)
    assert expected.compile_seconds is None
    assert found.compile_seconds > 0
    assert read_record(whole.run_dir / "record.json") == found

    saved = [torch.load(point.run_dir / LAST, weights_only=True) for point in (whole, eager)]
    assert list(saved[0]["state_dict"]) == list(saved[1]["state_dict"])
    for first, second in ((PEER, COMPILED), (COMPILED, PEER), (COMPILED, COMPILED)):
        folder = f"{len(first)}-{len(second)}"
        n = whole.plan.n_steps // 2
        broken = (*first, "trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1")
        with pytest.raises(Killed):
            execute(make(*broken, folder=folder), kill_at(n))
        resumed = execute(make(*second, folder=folder))
        assert resumed.status == "done", resumed.error
        assert resumed.val_loss == pytest.approx(expected.val_loss, rel=1e-3)
        if first == second:
            assert (resumed.val_loss, resumed.train_loss) == (found.val_loss, found.train_loss)


@INDUCTOR
def test_a_run_compiled_by_inductor_is_the_run_and_goes_on_to_the_bit(make, resumed):
    expected = execute(make(*PEER, folder="eager"))
    each = (*COMPILED, "logger.log_every_n_steps=1")
    whole = make(*each)
    found = execute(whole)
    assert found.status == "done", found.error
    assert found.val_loss == pytest.approx(expected.val_loss, rel=1e-3)
    assert found.compile_seconds > found.train_seconds  # some steps of a tiny model
    _, again = resumed(*each, at=whole.plan.n_steps // 2)
    assert (again.val_loss, again.train_loss) == (found.val_loss, found.train_loss)


@pytest.mark.night
def test_models_of_one_process_are_each_compiled_once(eager_backend):
    """torch keeps a limited number of graphs for a function's code; runs of one worker pass it."""
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(4):
            model = _model("none")
            forward = compile_trunk(model)
            _step(model, forward)
            _step(model, forward)
    assert counters["stats"]["unique_graphs"] == 4


def test_seconds_of_compiling_are_counted_and_end_with_the_block(eager_backend):
    clock, model = CompileClock(), _model("none")
    forward = compile_trunk(model)
    with clock.counted():
        _step(model, forward)
        first = clock.seconds
        _step(model, forward)
        assert 0 < first == clock.seconds
    torch._dynamo.reset()
    _step(model, torch.compile(model.forward))
    assert clock.seconds == first


def test_true_without_a_compiler_is_refused_and_auto_warns_and_runs(make, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("\nNo working C++ compiler found in\nmore of the same")

    monkeypatch.setattr(torch, "compile", fail)
    message = r"trainer.compile=true, and torch.compile does not work .*: No working C\+\+ .*CXX"
    with pytest.raises(ValueError, match=message):
        resolve_compile(True, "cpu")
    record = execute(make(*COMPILED))
    assert record.status == "failed"
    assert re.search(message, record.error)
    assert record.train_seconds is None  # before data and model are made
    monkeypatch.setattr(compiled, "AUTO_ON", ("cpu",))
    with pytest.warns(UserWarning, match="auto runs eagerly: No working") as warned:
        assert not resolve_compile("auto", "cpu")
    assert len(warned) == 1


def test_auto_compiles_where_it_is_said_to_pay(monkeypatch):
    monkeypatch.setattr(compiled, "why_not", lambda accelerator: None)
    assert not resolve_compile(False, "cuda")
    assert resolve_compile("auto", "cuda")
    assert resolve_compile("auto", "cpu") == ("cpu" in compiled.AUTO_ON)
    assert resolve_compile(True, "cpu")
