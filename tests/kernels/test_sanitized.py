"""Right and wrong calls of the public functions, drawn at random, over kernels that are compiled
with the sanitizers of addresses and of undefined behaviour: none reads or writes what is not its
own.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.kernels import build, mixture, product_key_layer, reference, trunk_passes
from experiments.kernels.cpp import Cpp, levels
from experiments.kernels.interface import AdamWStep
from experiments.kernels.mixture import Experts, Routing, mixture_half
from experiments.kernels.ops import gather_dot, gather_sum, product_key_topk, row_adamw
from experiments.kernels.trunk_passes import ACTIVATIONS, TrunkKernel
from tests.conftest import REPOSITORY
from tests.kernels.implementations import Given, assert_close
from tests.kernels.product_key_formulas import D, layer_of
from tests.kernels.trunk_formulas import attention_case, head_case, mlp_case

# before the import of what builds the library
_SANITIZED = """
from experiments.kernels import build
sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
build._COMMON = (*build._COMMON, "-O1", *sanitizers, "-g")
load, levels = build.load, build.processor_levels()[-{n_levels}:]
build.load = lambda given=levels: load(given)
from tests.kernels import test_sanitized
test_sanitized.{what}
"""


def _runtimes() -> list[str] | None:
    """Sanitizers', which a Python that is not compiled with them has to be started with."""
    compiler = next((c for c in ("g++", "c++") if shutil.which(c)), None)
    if compiler is None:
        return None
    found = []
    for name in ("libasan.so", "libubsan.so"):
        command = [compiler, f"-print-file-name={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found.append(done.stdout.strip())
    # a bare name, where there is none
    return found if all(Path(path).is_absolute() for path in found) else None


def _run(what: str, cache: Path, n_levels: int = 1) -> subprocess.CompletedProcess[str]:
    if (runtimes := _runtimes()) is None:
        pytest.skip("no g++ with libasan and libubsan is here")
    return subprocess.run(
        [sys.executable, "-c", _SANITIZED.format(what=what, n_levels=n_levels)],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
            "EXPERIMENTS_KERNEL_CACHE": str(cache),
            "EXPERIMENTS_CHECK_INDICES": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the library is compiled, once."""
    return tmp_path_factory.mktemp("sanitized")


@pytest.mark.night
def test_no_call_leaves_its_memory(cache):
    """By all levels of this processor: each compiles a minute."""
    n_calls = 1000
    done = _run(f"calls({n_calls})", cache, len(build.LEVELS))
    assert done.returncode == 0, done.stderr[-6000:]
    n_right, n_refused = map(int, done.stdout.split())
    assert n_right + n_refused == n_calls
    assert min(n_right, n_refused) > n_calls / 4


@pytest.mark.night
def test_a_planted_fault_is_seen(cache):
    """Past the checks, by the implementation itself: an index of N."""
    done = _run("fault()", cache)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def _kernels() -> list[Cpp]:
    library = build.load()
    torch.set_num_threads(2)
    return [Cpp(library, level) for level in levels(library)]


def fault() -> None:
    """Reads a row behind the table."""
    _kernels()[-1].dot(torch.randn(1, 32), torch.randn(7, 32), torch.full((1, 1), 7))


def calls(n: int) -> None:
    """Prints how many calls of n were right, and are those of the obvious forms, and were refused.

    A seventh as many layers follow, which are right.
    """
    kernels = _kernels()
    draw = random.Random(0)
    counts = [0, 0]
    for i in range(n):
        torch.manual_seed(i)
        functions = [_gather_dot, _gather_sum, _search, _steps, _mixture, _half, _half]
        function = draw.choice(functions)
        wrong = draw.random() < 0.5
        try:
            function(draw, kernels[i % len(kernels)], wrong)
            refused = False
        except (TypeError, ValueError, IndexError):
            refused = True
        assert refused == wrong, (i, function)
        counts[wrong] += 1
    for i in range(n // 7):
        torch.manual_seed(i)
        _product_key_layer(draw, kernels[i % len(kernels)])
    print(*counts)


def _size(draw: random.Random, most: int) -> int:
    """Often at the edge of a vector."""
    return min(
        most, draw.choice([1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, draw.randint(1, most)])
    )


def _spoilt(draw: random.Random, tensors: dict[str, Tensor], n_rows: int) -> dict[str, Tensor]:
    """One of them is another than it must be."""
    name = draw.choice(list(tensors))
    tensor = tensors[name]
    ways = {
        "idx": [tensor.int, tensor.double, lambda: tensor.fill_(n_rows), lambda: tensor.fill_(-1)],
        "table": [lambda: tensor[0], tensor.long, lambda: tensor[:0]],
    }.get(name, [lambda: tensor[:, :-1], lambda: torch.cat([tensor, tensor[:1]])])
    way = draw.choice([*ways, lambda: tensor.unsqueeze(0)])
    return tensors | {name: way()}


def _pairs(draw: random.Random) -> tuple[Tensor, Tensor]:
    n_rows, width = _size(draw, 300), _size(draw, 130)
    table = torch.randn(n_rows, width).to(draw.choice([torch.float32, torch.bfloat16]))
    return table, torch.randint(0, n_rows, (_size(draw, 120), _size(draw, 20)))


def _gather_dot(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    table, idx = _pairs(draw)
    given = {"x": torch.randn(len(idx), table.shape[1]), "table": table, "idx": idx}
    if wrong:
        given = _spoilt(draw, given, len(table))
    x, table = (
        given[n].detach().requires_grad_(given[n].is_floating_point()) for n in ("x", "table")
    )
    how = Given(given=kernel, gradient=draw.choice(["dense", "rows"]))
    out = gather_dot(x, table, given["idx"], how)
    out.sum().backward()
    wanted = reference.gather_dot(x.detach().double(), table.detach().double(), given["idx"])
    assert_close([out], [wanted], 1e-5)


def _gather_sum(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    table, idx = _pairs(draw)
    given = {"table": table, "idx": idx, "weights": torch.randn(idx.shape)}
    if wrong:
        given = _spoilt(draw, given, len(table))
    table, weights = (
        given[n].detach().requires_grad_(given[n].is_floating_point()) for n in ("table", "weights")
    )
    how = Given(given=kernel, gradient=draw.choice(["dense", "rows"]))
    out = gather_sum(table, given["idx"], weights, how)
    out.sum().backward()
    wanted = reference.gather_sum(table.detach().double(), given["idx"], weights.detach().double())
    assert_close([out], [wanted], 1e-5)


def _search(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    n_tokens, n_heads, half = _size(draw, 100), draw.randint(1, 4), _size(draw, 70)
    sets = _size(draw, 100), _size(draw, 100)
    groups = (n_heads,) if draw.random() < 0.5 else ()
    top_k = min(draw.choice([1, 4, 9, 16, 40, 300]), sets[0] * sets[1])
    queries = torch.randn(n_tokens, n_heads, 2 * half)
    sub_keys = torch.randn(*groups, sum(sets), half)
    bias = torch.randn(sets[0]) if draw.random() < 0.5 else None
    n_first = sets[0]
    if wrong:
        way = draw.randrange(6)
        if way == 0:
            top_k = draw.choice([0, -1, sets[0] * sets[1] + 1])
        elif way == 1:
            n_first = draw.choice([0, -1, sum(sets), sum(sets) + 5])
        elif way == 2:
            bias = torch.randn(sets[0] + 1)
        elif way == 3:
            queries = queries[..., : 2 * half - draw.randint(1, 2)]
        elif way == 4:
            sub_keys = torch.randn(n_heads + 1, sum(sets), half)
        else:
            queries = queries.long()
    if queries.is_floating_point():
        queries.requires_grad_()
    sub_keys.requires_grad_()
    scores, experts = product_key_topk(queries, sub_keys, top_k, Given(given=kernel), n_first, bias)
    assert experts.min() >= 0
    assert experts.max() < sets[0] * sets[1]
    scores.sum().backward()


def _steps(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    table, idx = _pairs(draw)
    rows = idx.unique()
    given = {"table": table, "idx": rows, "gradient": torch.randn(len(rows), table.shape[1])}
    moments = tuple(torch.zeros(table.shape) for _ in range(2))
    if wrong and draw.random() < 0.3:
        moments = (moments[0], torch.cat([moments[1], moments[1]], draw.randrange(2)))
    elif wrong:
        given = _spoilt(draw, given, len(table))
    step = AdamWStep(lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, step=1)
    row_adamw(kernel, given["table"], moments, given["idx"], given["gradient"], step)
    assert given["table"].isfinite().all()


def _mixture(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    this = TrunkKernel(kernel.library, kernel.level)
    mixture.load_trunk = lambda: this  # the level's
    n_tokens, d, n = _size(draw, 200), draw.choice([16, 48, 80]), _size(draw, 9)
    d_ff, experts_choose = _size(draw, 90), draw.random() < 0.5
    most = n_tokens if experts_choose else n
    n_chosen = draw.randint(1, most)
    x, w_in = torch.randn(n_tokens, d), torch.randn(n, d, d_ff, requires_grad=True)
    w_gate = torch.randn(n, d, d_ff, requires_grad=True) if draw.random() < 0.5 else None
    given = {
        "router": torch.randn(n, d, requires_grad=True),
        "w_out": torch.randn(n, d_ff, d, requires_grad=True),
        "bias": torch.randn(n),
        "base": torch.randn(n_tokens, d) if draw.random() < 0.5 else None,
    }
    if wrong and draw.random() < 0.3:
        n_chosen = draw.choice([0, -1, most + 1])
    elif wrong:
        name = draw.choice([name for name, tensor in given.items() if tensor is not None])
        ways = [given[name].double, lambda: given[name][:, None], lambda: given[name][1:]]
        given |= {name: draw.choice(ways)()}
    routing = Routing(
        experts_choose=experts_choose,
        softmax=draw.random() < 0.5,
        n_chosen=n_chosen,
        bias=given["bias"],
    )
    experts = Experts(given["router"], w_in, w_gate, given["w_out"])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=draw.random() < 0.5):
        norm, activation = nn.RMSNorm(d), draw.choice(ACTIVATIONS)
        mixed = mixture_half(x, norm, experts, routing, activation, 0.5, given["base"])
        (mixed.y.sum() + mixed.gates.square().sum()).backward()
    assert mixed.y.isfinite().all()
    assert w_in.grad.isfinite().all()


def _half(draw: random.Random, kernel: Cpp, wrong: bool) -> None:
    """A half-block or the head, of float32 operands or of bfloat16, by up to 3 threads."""
    this = TrunkKernel(kernel.library, kernel.level)
    trunk_passes.load_trunk = lambda: this
    d, n_tokens = 16 * draw.randint(1, 9), draw.choice([0, 1, 47, 48, 49, 96, 97, 200])
    which = draw.randrange(3)
    if which == 0:
        activation = draw.choice(ACTIVATIONS)
        case = mlp_case(n_tokens, d, _size(draw, 300), activation, draw.random() < 0.5)
    elif which == 1:
        case = head_case(max(n_tokens, 1), d, _size(draw, 1500))
    else:
        n_kv_heads, shared = draw.randint(1, 2), draw.randint(1, 2)
        sizes = (draw.randint(1, 2), max(n_tokens, 1), n_kv_heads * shared, n_kv_heads)
        case = attention_case(*sizes, 16 * draw.randint(1, 8), draw.random() < 0.5)
    if wrong:
        spoilt = [lambda t: t[..., 1:], lambda t: t.double(), lambda t: t[None, None]]
        i = draw.choice([i for i, t in enumerate(case.inputs) if t is not None])
        inputs = [*case.inputs]
        inputs[i] = draw.choice(spoilt if i else spoilt[:2])(inputs[i])
        case.fused(*inputs)
        return
    bf16 = draw.random() < 0.5
    torch.set_num_threads(draw.randint(1, 3))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = case.results()
    torch.set_num_threads(2)
    wanted = case.results(double=True)
    for fast, exact in zip(found, wanted, strict=True):
        near = (0.05 if bf16 else 1e-4) * exact.norm() + 1e-6
        assert (fast - exact).norm() <= near, (which, case.inputs[0].shape)


def _product_key_layer(draw: random.Random, kernel: Cpp) -> None:
    operators = TrunkKernel(kernel.library, kernel.level)
    product_key_layer.load_trunk = lambda: operators
    kind, n_first = draw.choice(["peer", "pkm"]), draw.choice([None, 3, 7])
    d_key, n_heads = draw.choice([(2, 8), (6, 8), (16, 1), (16, 3), (48, 2), (272, 1)])
    layer = layer_of(
        kind,
        n_experts=n_first * draw.randint(1, 30) if n_first else _size(draw, 30) ** 2,
        n_first_keys=n_first,
        d_key=d_key,
        n_heads=n_heads,
        top_k=1,
        query_norm=draw.choice(["none", "layer", "batch"]),
        score=draw.choice(["softmax", "sigmoid", "relu"]),
        share_keys=draw.random() < 0.5,
        table_dtype=draw.choice(["float32", "bfloat16"]),
        **({"glu": draw.random() < 0.5} if kind == "peer" else {}),
    )
    layer.top_k = min(draw.choice([1, 4, 9, 16, 17, 40]), layer.n_experts)
    layer.execution = Given(given=kernel, gradient=draw.choice(["dense", "rows"]))
    assert layer.why_not_fused() is None
    x = torch.randn(2, max(1, _size(draw, 220) // 2), D, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=draw.random() < 0.3):
        y = layer.fused_half(x, torch.nn.RMSNorm(D), 0.5)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
