"""Steps of training on a card that isn't there: devices, types, operators' fakes, and memory.

All steps are taken by one process (fake_cuda.py), a layer in half a second, whatever its size.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
CHILD = Path(__file__).with_name("fake_cuda.py")
SIZE = (
    "cluster=h100", "size=2", "budget=1e15", "ladder.d_per_layer=128", "ladder.d_head=64",
    "ladder.seq_len=512", "ladder.batch_size=8",
)  # fmt: skip
MANY = ("n_experts=65536", "model.n_heads=4")  # tables that are most of the model
LAYERS = {
    "dense": ("model=dense",),
    "dense_glu": ("model=dense", "model.glu=true"),
    "none": ("model=none",),
    "moe": ("model=moe", "n_experts=8"),
    "moe_fine": ("model=moe_fine", "n_experts=16"),
    "moe_fine_glu": ("model=moe_fine", "n_experts=16", "model.glu=true"),
    "peer": ("model=peer", *MANY),
    "peer_glu": ("model=peer", *MANY, "model.glu=true"),
    "pkm": ("model=pkm", *MANY),
    "memory_plus": ("model=memory_plus", *MANY),
    "sgatlin": ("model=sgatlin", "n_experts=65536"),
    "ultramem": ("model=ultramem", *MANY),
    "peer_narrow": ("model=peer_narrow", *MANY, "model.d_value=64"),
    "stem": ("model=stem",),
    "engram": ("model=engram", "n_experts=65536"),
}
ROWS, FUSED = "optim.table_gradient=rows", ("optim.table_gradient=fused", "optim.grad_clip=null")
WAYS = {
    "dense": (),
    "rows": (ROWS,),
    "rows_bf16": (ROWS, "optim.table_state=bfloat16", "model.table_dtype=bfloat16"),
    "fused": FUSED,
}
MIXED, FLOAT32 = "trainer.precision=bf16-mixed", "trainer.precision=32-true"
RECOMPUTE = "trainer.recompute=true"
ALL, MICRO = "trunk.ffn_blocks=all", "trainer.micro_batch_size=2"
RANKS = "trainer.devices=2"
# files of which a step asks the card for numbers where tables step by rows: how many rows a sort
# has, and their order once micro-batches have added to them. All other steps ask for none
ASKS = {"kernels/torch_kernels.py", "optim/gradients.py"}
# to the card: ranks of pairs, once for a search's sizes, and a batch's tokens
COPIES = {"kernels/triton_search.py", "training/module.py"}
# under autocast: a mixture's router, scores of product keys
FLOAT32_PRODUCTS = {"models/ffn/moe.py", "kernels/triton_search.py", "kernels/product_keys.py"}


def quick():
    """Every layer as a card trains it, and every way of a table."""
    for layer, of_layer in LAYERS.items():
        yield f"{layer}", (*of_layer, MIXED)
    for layer in ("dense", "moe_fine", "peer"):
        yield f"{layer} float32", (*LAYERS[layer], FLOAT32)
    for way in ("rows", "rows_bf16", "fused"):
        yield f"peer {way}", (*LAYERS["peer"], *WAYS[way], MIXED)
    for way in ("dense", "rows", "rows_bf16"):
        yield f"peer {way} micro", (*LAYERS["peer"], *WAYS[way], MIXED, MICRO)
    for more in ((RANKS,), (RANKS, MICRO)):
        yield " ".join(("peer", *more)), (*LAYERS["peer"], MIXED, *more)
    for layer in ("dense", "peer"):
        yield f"{layer} all", (*LAYERS[layer], MIXED, ALL)
        yield f"{layer} recomputed", (*LAYERS[layer], MIXED, ALL, RECOMPUTE)


def wide():
    """Product of layers, ways, types, numbers of micro-batches and blocks."""
    for layer, of_layer in LAYERS.items():
        has_table = layer.partition("_")[0] in ("peer", "pkm", "sgatlin", "ultramem")
        for way in WAYS if has_table else ("dense",):
            for precision in (MIXED, FLOAT32):
                for more in ((), (MICRO,), (ALL,), (ALL, MICRO)):
                    if way != "fused" or MICRO not in more:  # which is refused
                        name = " ".join((layer, way, precision, *more))
                        yield name, (*of_layer, *WAYS[way], precision, *more)


QUICK, WIDE = dict(quick()), dict(wide())
COMPILED = {layer: (*LAYERS[layer], MIXED) for layer in LAYERS}


@pytest.fixture(scope="module")
def steps(compose_raw, tmp_path_factory):
    """steps(cases, compiled): what the process has to say of each case, by name."""
    compiler = shutil.which("g++")
    if compiler is None or torch.version.cuda is not None:
        pytest.skip("needs g++, and a torch that was built without CUDA")
    folder = tmp_path_factory.mktemp("card")
    library = folder / "card.so"
    root = Path(torch.__file__).parent
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{root / 'include'}", str(SOURCE)]
    link = ["-o", str(library), f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"]
    subprocess.run([*command, *link, "-lc10", "-ltorch_cpu"], check=True)
    # before Python is, for torch asks for its devices once
    environment = {**os.environ, "TRITON_INTERPRET": "0", "LD_PRELOAD": str(library)}

    def run(cases, compiled=False):
        given = [{"raw": compose_raw(*SIZE, *c), "compiled": compiled} for c in cases.values()]
        (folder / "cases.json").write_text(json.dumps(given))
        done = subprocess.run(
            [sys.executable, CHILD, folder / "cases.json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=3000,
        )
        assert done.returncode == 0, done.stderr
        return dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))

    return run


def _files(lines):
    """Copies of ours. The moves of a model and of its batches are Lightning's."""
    return {line.partition(":")[0] for line in lines} - {"?"}


def _check(step, choices):
    assert "error" not in step, step["error"]
    assert _files(step["asked"]) <= (ASKS if ROWS in choices else set())
    assert _files(step["copied"]) <= COPIES
    if MIXED in choices:
        assert _files(step["float32"]) <= FLOAT32_PRODUCTS
        of_routers = [n for line, n in step["float32"].items() if "moe.py" in line]
        assert step["float32"].get("?", 0) == 2 * sum(of_routers)  # in the backward pass
    assert step["planned"] == pytest.approx(step["peak"], rel=0.1)


@pytest.fixture(scope="module")
def quick_steps(steps):
    return steps(QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_a_step_stays_on_the_card_and_within_its_plan(quick_steps, case):
    _check(quick_steps[case], QUICK[case])


def test_recomputing_takes_less_memory(quick_steps):
    """Of a block of attention and a dense layer the two inputs are kept, 2 of some 25 d_model."""
    whole, less = (quick_steps[f"dense {how}"]["peak"] for how in ("all", "recomputed"))
    assert less < 0.8 * whole
    assert quick_steps["peer recomputed"]["peak"] < quick_steps["peer all"]["peak"]


@pytest.mark.night
def test_combinations_do(steps):
    """In one test, so that one process of the suite takes the steps of all of them."""
    found = steps(WIDE)
    for case, choices in WIDE.items():
        print(case)  # of the last one, if it fails
        _check(found[case], choices)


@pytest.mark.night
def test_a_compiled_step_is_one_graph_on_the_card(steps):
    """Where tables have dense gradients: the others step between graphs, by eager code."""
    for layer, step in steps(COMPILED, compiled=True).items():
        assert "error" not in step, (layer, step["error"])
        assert step["graphs"] == 1, layer
