"""Every conf/optim/*.yaml: a new optimizer is checked without a new test."""

import copy
import io
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from experiments.config.hydra_hints import choice_names
from experiments.models.ffn.dense import DenseConfig
from experiments.models.transformer import TransformerConfig
from experiments.optim.adamw import AdamWConfig
from experiments.optim.groups import build_optimizer, parameter_groups
from experiments.optim.optimizer import GroupedOptimizer
from experiments.points.planning import make_point, read_point
from experiments.training.execute import execute
from tests.conftest import TINY, Killed, kill_at

NAMES = choice_names("optim")
PEER = ("model=peer", "n_experts=64", "model.d_key=8", "model.n_heads=2", "model.top_k=4")
FINE = ("model=moe_fine", "n_experts=16")
WAYS = {
    "dense": (),
    "rows": ("optim.table_gradient=rows", "optim.table_state=bfloat16"),
    "fused": ("optim.table_gradient=fused", "optim.grad_clip=null"),
}


@pytest.fixture
def make(compose_raw, tmp_path):
    def point(*overrides, folder="results"):
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={tmp_path / 'cache'}")
        return make_point(compose_raw("size=2", "budget=1e9", *TINY, *paths, *overrides))

    return point


def step(model, optimizer, seed):
    text = torch.randint(200, (2, 16), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(text).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_stepped_once_and_the_plan_s_moments_are_held(make, name, way):
    for model in (PEER, FINE) if way == "dense" else (PEER,):
        point = make(f"optim={name}", *model, *WAYS[way])
        made, optim = point.transformer.build(), point.config.optim
        groups = parameter_groups(made, 0.01, optim)
        stepped = [id(p) for group in groups for p in group["params"]]
        assert sorted(stepped) == sorted(map(id, made.parameters()))
        assert optim in [group["by"] for group in groups]
        optimizer = build_optimizer(made, 0.01, optim, "torch")
        for seed in range(3):
            step(made, optimizer, seed)
        for parameter in made.parameters():  # an expert that no token came to
            if not optimizer.state[parameter]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        moments = [m for state in optimizer.state.values() for m in state.values() if m.dim()]
        assert point.plan.memory.moments == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_goes_on_to_the_bit(make, name, way):
    point = make(f"optim={name}", *(FINE if way == "dense" else PEER), *WAYS[way])
    models = [point.transformer.build() for _ in range(2)]
    first, second = (build_optimizer(m, 0.01, point.config.optim, "torch") for m in models)
    for seed in range(12):
        step(models[0], first, seed)
    file = io.BytesIO()
    torch.save({"model": models[0].state_dict(), "optimizer": first.state_dict()}, file)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    models[1].load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    for seed in range(12, 24):
        for model, optimizer in zip(models, (first, second), strict=True):
            step(model, optimizer, seed)
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
        assert first.state[p].keys() == second.state[q].keys()
        assert all(torch.equal(m, second.state[q][key]) for key, m in first.state[p].items())


@pytest.mark.parametrize("name", NAMES)
def test_groups_added_later_and_copies_of_it_step(make, name):
    """As a torch.optim.Optimizer's; what is saved is plain values."""
    point = make(f"optim={name}")
    model, optim = point.transformer.build(), point.config.optim
    first, *others = parameter_groups(model, 0.01, optim)
    optimizer = GroupedOptimizer([first])
    for group in others:
        optimizer.add_param_group(group)
    step(model, optimizer, 0)
    again, other = copy.deepcopy((optimizer, model))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for each in ((model, optimizer), (other, again)):
        step(*each, 1)
    assert all(map(torch.equal, model.parameters(), other.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_zero_move_nothing_but_by_decay(make, name):
    point = make(f"optim={name}", *FINE)
    model = point.transformer.build()
    optimizer = build_optimizer(model, 0.01, point.config.optim, "torch")
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.allclose(parameter, old, rtol=0.01, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_its_own_lr_is_times_the_rate(make, name):
    optim = make(f"optim={name}").config.optim
    for own in {f"{name}_lr"} & {field.name for field in fields(optim)}:
        model = make(f"optim={name}", *PEER).transformer.build()
        by_three = replace(optim, **{own: 3 * getattr(optim, own)})
        pair = [parameter_groups(model, 0.01, how) for how in (optim, by_three)]
        rates = [(by["by"] is by_three, a["lr"], by["lr"]) for a, by in zip(*pair, strict=True)]
        assert any(ours for ours, *_ in rates)
        assert all(after == pytest.approx(before * (3 if o else 1)) for o, before, after in rates)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_learns_and_goes_on_to_the_bit(make, name):
    expected = execute(make(f"optim={name}", *PEER, folder="whole"))
    assert expected.status == "done", expected.error
    assert expected.val_loss < 2  # of 5.6: the logarithm of the vocabulary
    words = (f"optim={name}", *PEER, "trainer.checkpoint_minutes=0")
    with pytest.raises(Killed):
        execute(make(*words, folder="broken"), kill_at(20))
    result = execute(make(*words, folder="broken"))
    assert (result.status, result.val_loss) == ("done", expected.val_loss)


def test_each_choice_is_a_run_of_its_own(make):
    ids = [make(f"optim={name}", *PEER).run_id for name in NAMES]
    assert len({*ids}) == len(NAMES) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_columns_step_as_in_the_whole_where_that_is_said(make, name):
    """To the bit; trainer.table_ranks relies on it."""
    optim = make(f"optim={name}", *PEER).config.optim
    if not optim.elementwise:
        return
    start, gradient = torch.randn(8, 32), torch.randn(8, 32)
    whole, half = nn.Parameter(start.clone()), nn.Parameter(start[:, 16:].clone())
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": 20, "seq_len": 8, "tie_head": False}
    model = TransformerConfig(**sizes, ffns=(DenseConfig(),)).build()
    group = next(g for g in parameter_groups(model, 0.01, optim) if g["by"] == optim)
    for parameter, own in ((whole, gradient), (half, gradient[:, 16:])):
        optimizer = GroupedOptimizer([{**group, "params": [parameter]}])
        for sign in (1, -1, 1):
            parameter.grad = sign * own.clone()
            optimizer.step()
    assert torch.equal(whole[:, 16:], half)


@dataclass(frozen=True, kw_only=True)
class TogetherConfig(AdamWConfig):
    """Says nothing of columns."""

    elementwise = False


def test_columns_of_tables_are_refused_where_nothing_is_said(compose_raw):
    here = f"{TogetherConfig.__module__}.TogetherConfig"
    words = (f"optim._target_={here}", *PEER, "trainer.devices=2", "trainer.table_ranks=all")
    with pytest.raises(ValueError, match="optim=test_contract, which steps tables, and columns"):
        read_point(compose_raw("size=2", "budget=1e9", *TINY, *words))


def test_a_checkpoint_of_another_optimizer_is_refused_by_name(make):
    adamw, lion = (make(f"optim={name}", *PEER) for name in ("adamw", "lion"))
    models = [adamw.transformer.build() for _ in range(2)]
    first = build_optimizer(models[0], 0.01, adamw.config.optim, "torch")
    step(models[0], first, 0)
    second = build_optimizer(models[1], 0.01, lion.config.optim, "torch")
    with pytest.raises(ValueError, match="exp_avg_sq of a parameter, and optim=lion keeps exp_avg"):
        second.load_state_dict(first.state_dict())


def test_a_checkpoint_from_before_goes_on(make):
    """Its groups named what stepped them by keys: rows, momentum and AdamW's own."""
    point = make("optim=muon", *PEER, *WAYS["rows"])
    models = [point.transformer.build() for _ in range(2)]
    first, second = (build_optimizer(m, 0.01, point.config.optim, "torch") for m in models)
    step(models[0], first, 0)
    saved = copy.deepcopy(first.state_dict())  # torch would share tensors
    for group in saved["param_groups"]:
        group |= {"betas": (0.9, 0.95), "eps": 1e-8, "amsgrad": False, "fused": True, "rows": None}
        group |= {"momentum": 0.95, "ns_steps": 5} if "adjust" in group else {}
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(saved)
    for model, optimizer in zip(models, (first, second), strict=True):
        step(model, optimizer, 1)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
