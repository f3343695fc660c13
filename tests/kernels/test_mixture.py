"""Mixture's half-block against its formula in float64, at each level of processor."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.kernels import build, mixture
from experiments.kernels.cpp import levels
from experiments.kernels.mixture import Experts, Mixed, Routing, mixture_half, why_not_mixture
from experiments.kernels.trunk_passes import TrunkKernel
from experiments.models.ffn._base import ACTIVATIONS

LEVELS = levels(build.load())


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    kernel = TrunkKernel(build.load(), request.param)
    monkeypatch.setattr(mixture, "load_trunk", lambda: kernel)
    return request.param


@dataclass(frozen=True, kw_only=True)
class Case:
    """n_chosen: experts of a token, or tokens of an expert. favoured: added to a token's choice of
    the first expert. gates_score: the loss is of all gates, too."""

    n_tokens: int = 50
    d: int = 16
    n_experts: int = 5
    d_ff: int = 24
    experts_choose: bool = False
    softmax: bool = True
    n_chosen: int = 2
    activation: str = "gelu"
    glu: bool = False
    beside: bool = False
    favoured: float = 0.0
    gates_score: bool = True
    times: float = 0.7

    def given(self) -> tuple[Tensor, ...]:
        """x, the norm's weights, router, w_in, w_gate, w_out, base, dy, dgates; in float64."""
        torch.manual_seed(0)
        n, e, d, f = self.n_tokens, self.n_experts, self.d, self.d_ff
        shapes = [(n, d), (d,), (e, d), (e, d, f), (e, d, f), (e, f, d), (n, d), (n, d), (n, e)]
        x, norm, *rest = (torch.randn(s, dtype=torch.float64).float().double() for s in shapes)
        return x, 1 + 0.3 * norm, *rest

    def routing(self) -> Routing:
        bias = 0.01 * torch.randn(self.n_experts, generator=torch.Generator().manual_seed(1))
        bias[0] += self.favoured
        return Routing(
            experts_choose=self.experts_choose,
            softmax=self.softmax,
            n_chosen=self.n_chosen,
            bias=bias,
        )


CASES = {
    "token choice": Case(),
    "odd": Case(n_tokens=37, d=48, d_ff=7, n_experts=3, n_chosen=3, activation="relu"),
    "fine": Case(n_tokens=300, d=32, n_experts=70, d_ff=16, n_chosen=7, softmax=False, beside=True),
    "one each": Case(n_chosen=1, softmax=False, glu=True, activation="silu", times=1.0),
    "an expert has all": Case(n_tokens=211, n_chosen=1, favoured=3.0, activation="gelu_tanh"),
    "wide": Case(n_tokens=100, d=144, d_ff=272, n_experts=2, n_chosen=1, activation="identity"),
    "gates unscored": Case(n_experts=20, softmax=False, gates_score=False),
    "one expert": Case(n_experts=1, n_chosen=1, d_ff=16),
    "one token": Case(n_tokens=1, glu=True),
    "experts choose": Case(experts_choose=True, n_chosen=11),
    "experts choose all": Case(experts_choose=True, n_chosen=50, softmax=False, beside=True),
    "experts choose one": Case(
        n_tokens=130, d=80, d_ff=65, experts_choose=True, n_chosen=1, n_experts=17, glu=True
    ),
}


def computed(case: Case, given: tuple[Tensor, ...], frozen: tuple[int, ...] = ()) -> Mixed:
    """By the operator, with leaves for gradients: given, but its last two and what is frozen."""
    x, weight, router, w_in, w_gate, w_out, base = given[:7]
    norm = nn.RMSNorm(case.d)
    norm.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    experts = Experts(router, w_in, w_gate if case.glu else None, w_out)
    beside = base if case.beside else None
    return mixture_half(x, norm, experts, case.routing(), case.activation, case.times, beside)


def gradients(case: Case, frozen: tuple[int, ...] = ()) -> list[Tensor | None]:
    """y, gates, and the gradients of what case.given() begins with."""
    given = [t.float() for t in case.given()]
    leaves = [nn.Parameter(t, requires_grad=i not in frozen) for i, t in enumerate(given[:7])]
    mixed = computed(case, tuple(leaves))
    loss = (mixed.y * given[7]).sum()
    if case.gates_score:
        loss = loss + (mixed.gates * given[8]).sum()
    loss.backward()
    return [mixed.y.detach(), mixed.gates.detach(), *(leaf.grad for leaf in leaves)]


def written(case: Case, index: Tensor) -> tuple[list[Tensor | None], Tensor]:
    """Same by the formula in float64, given the choices; and all gates with their bias."""
    given = case.given()
    leaves = [t.clone().requires_grad_() for t in given[:7]]
    x, weight, router, w_in, w_gate, w_out, base = leaves
    eps = torch.finfo(torch.float32).eps
    normed = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight
    logits = normed @ router.t()
    gates = logits.softmax(-1) if case.softmax else logits.sigmoid()
    activation = ACTIVATIONS[case.activation]
    takes = torch.zeros(case.n_tokens, case.n_experts, dtype=torch.bool)
    takes = (takes.t() if case.experts_choose else takes).scatter(1, index, True)
    takes = takes.t() if case.experts_choose else takes
    weights = gates * takes
    if case.n_chosen > 1 and not case.experts_choose:
        weights = weights / weights.sum(-1, keepdim=True)
    total = torch.zeros_like(x)
    for e in range(case.n_experts):
        (tokens,) = takes[:, e].nonzero(as_tuple=True)
        inner = normed[tokens] @ w_in[e]
        gated = activation(normed[tokens] @ w_gate[e]) * inner
        hidden = gated if case.glu else activation(inner)
        total = total.index_add(0, tokens, weights[tokens, e, None] * (hidden @ w_out[e]))
    y = (base if case.beside else x) + case.times * total
    ((y * given[7]).sum() + case.gates_score * (gates * given[8]).sum()).backward()
    found = [y.detach(), gates.detach(), *(leaf.grad for leaf in leaves)]
    return found, gates.detach() + (0 if case.experts_choose else case.routing().bias)


def distance(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_the_formula_s(level, name):
    case = CASES[name]
    index = computed(case, tuple(t.float() for t in case.given())).choices
    wanted, preferences = written(case, index)
    for fast, slow in zip(gradients(case), wanted, strict=True):
        assert (fast is None) == (slow is None)
        assert fast is None or distance(fast, slow) < 1e-5

    if case.experts_choose:
        preferences = preferences.t()
    chosen = torch.zeros_like(preferences, dtype=torch.bool).scatter_(1, index, True)
    assert (chosen.sum(1) == case.n_chosen).all()
    least = preferences.masked_fill(~chosen, torch.inf).amin(1)
    assert (least >= preferences.masked_fill(chosen, -torch.inf).amax(1) - 1e-6).all()


@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "one token"]
)  # some of whose terms nearly cancel
def test_operands_of_eight_bits_give_nearly_those(level, name):
    case = CASES[name]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = gradients(case)
    for near, exact in zip(rounded, gradients(case), strict=True):
        assert (near is None and exact is None) or distance(near, exact.double()) < 3e-2
    assert not torch.equal(rounded[0], gradients(case)[0])


def test_gradients_are_of_what_is_trained():
    case = Case(glu=True, beside=True)
    whole = gradients(case)
    for frozen in ((1, 2), (3, 5), (4, 6)):
        some = gradients(case, frozen)
        for i, (part, all_of_it) in enumerate(zip(some[2:], whole[2:], strict=True)):
            assert part is None if i in frozen else torch.equal(part, all_of_it)


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("experts_choose", [False, True])
def test_of_equal_gates_the_first_are_chosen(level, experts_choose, larger):
    """And those behind them that are larger, by their last bit."""
    case = Case(experts_choose=experts_choose, n_chosen=3)
    x, _, router, w_in, _, w_out, *_ = (t.float() for t in case.given())
    last = (case.n_tokens if experts_choose else case.n_experts) - 1
    bias = torch.full((case.n_experts,), -1.5 - 2**-23)  # gates of -1 and what is next to it
    x.zero_()
    router.fill_(1)
    if larger:
        x[-1] = float(experts_choose)  # its gates are larger for all experts
        bias[-1] = -1.5
    routing = Routing(experts_choose=experts_choose, softmax=False, n_chosen=3, bias=bias)
    experts = Experts(router, w_in, None, w_out)
    mixed = mixture_half(x, nn.RMSNorm(case.d), experts, routing, "relu", 1.0)
    assert (mixed.choices == torch.tensor([0, 1, last if larger else 2])).all()


@pytest.mark.parametrize("experts_choose", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so_and_chooses_within_bounds(level, experts_choose, value):
    case = Case(experts_choose=experts_choose, n_chosen=3)
    given = [t.float() for t in case.given()]
    given[0][7] = value
    mixed = computed(case, tuple(given))
    assert not mixed.y[7].isfinite().any()
    assert mixed.choices.min() >= 0
    assert mixed.choices.max() < (case.n_tokens if experts_choose else case.n_experts)
    assert all(len(row.unique()) == 3 for row in mixed.choices)


def test_pairs_are_counted():
    case = CASES["fine"]
    mixed = computed(case, tuple(t.float() for t in case.given()))
    counts = mixed.choices.flatten().bincount(minlength=case.n_experts)
    assert torch.equal(mixed.ends.long(), counts.cumsum(0))


def test_what_it_can_t_take_is_said():
    router, w = nn.Linear(16, 4, bias=False), torch.zeros(4, 16, 8)
    assert why_not_mixture((router, None), (w, None, w), "gelu") is None
    assert why_not_mixture((router,), (w.to("meta"),), "gelu") is None  # of a planned model
    assert "float64 on cpu" in why_not_mixture((router,), (w.double(),), "gelu")
    assert "activation=tanh" in why_not_mixture((router,), (w,), "tanh")
    assert "Linear is not a plain" in why_not_mixture((nn.Linear(16, 4),), (w,), "gelu")


def test_wrong_shapes_are_refused():
    case = Case()
    x, norm, router, w_in, _, w_out, base = (t.float() for t in case.given()[:7])
    weight = nn.RMSNorm(case.d)
    weight.weight = nn.Parameter(norm)
    right = {"router": router, "w_in": w_in, "w_out": w_out, "base": base}
    for name, wrong in (
        ("router", router[:, :-1]),
        ("w_in", w_in[:, :-1]),
        ("w_out", w_out[:, :-1]),
        ("base", base[:-1]),
        ("w_in", w_in.double()),
    ):
        given = {**right, name: wrong}
        experts = Experts(given["router"], given["w_in"], None, given["w_out"])
        with pytest.raises((TypeError, ValueError), match=name):
            mixture_half(x, weight, experts, case.routing(), "gelu", 1.0, given["base"])
    narrow = F.pad(x, (0, -1))
    with pytest.raises(ValueError, match="a width of 15 is no multiple of 16"):
        mixture_half(
            narrow, weight, Experts(router, w_in, None, w_out), case.routing(), "gelu", 1.0
        )
