"""Benchmark command, run for real at sizes that say nothing about speed."""

import json
import subprocess
from pathlib import Path
from statistics import median

import pytest
import torch

from experiments import bench
from experiments.benchmarks.core import comparing, memory, peak, rates, rivals, timing
from experiments.benchmarks.core.agreement import check_agreement
from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.rates import Rates
from experiments.benchmarks.core.roofline import compute_floors
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.kernels import reference
from experiments.kernels.build import BuildError, load
from experiments.system.modules import find_modules
from tests.json_page import check

SIZES = ("--d", "32", "--n-experts", "256", "--tokens", "64", "--heads", "2", "--top-k", "4")
FEW = ("--rounds", "2", "--allocator", "default")
SHAPE = Shape(d_model=32, n_experts=256, n_tokens=64, n_heads=2, top_k=4, d_key=32)
SETTINGS = Settings(
    device="cpu", rounds=1, kernels=("torch",), huge_pages=True, table_dtype=torch.float32
)
HAS = {
    name: name not in rivals.absent("cpu", torch.float32)
    for name in ("PEER-pytorch", "product-key-memory")
}


def _kernels() -> tuple[str, ...]:
    try:
        load()
    except BuildError:
        return ("torch",)
    return ("cpp", "torch")


KERNELS = _kernels()


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.002)
    monkeypatch.setattr(rates, "SQUARE", {"cpu": 32})
    monkeypatch.setattr(rates, "COPY_BYTES", 2**16)


@pytest.fixture
def measure(tmp_path, capsys, monkeypatch):
    """measure("layer", ...): the JSON's comparisons and what was printed, in this process."""
    monkeypatch.setattr(timing, "TRIES", 1)  # who else uses the machine is no matter here

    def run(*arguments: str):
        path = tmp_path / "bench.json"
        same = ("--threads", str(torch.get_num_threads()), "--kernels", ",".join(KERNELS))
        bench.main([arguments[0], *same, *arguments[1:], *FEW, "--json", str(path)])
        found = json.loads(path.read_text())
        assert found["schema"] == f"bench-{arguments[0]}/1"
        check(found)
        (part,) = found["parts"]
        assert part["allocator"] == "default"
        assert part["gated"] == (timing.cpu_seconds() is not None)
        return part["comparisons"], capsys.readouterr().out

    return run


def _check(comparison: dict, printed: str) -> list[str]:
    """Names; after checking that all are printed, and medians and ratios are those of repeats."""
    seconds = {
        c["name"]: [repeat["seconds"] for repeat in c["repeats"]] for c in comparison["contenders"]
    }
    for c in comparison["contenders"]:
        assert f"\n  {c['name']}  " in printed
        own = seconds[c["name"]]
        assert c["median_seconds"] == median(own)
        base = seconds.get(c["baseline"])
        wanted = None if base is None else median(b / o for b, o in zip(base, own))
        assert c["times_faster"] == wanted
    return list(seconds)


def test_layer(measure):
    comparisons, printed = measure("layer", *SIZES, "--with-optimizer")
    passes, steps = comparisons
    names = _check(passes, printed)
    ours = [f"{kernel} {way}" for kernel in KERNELS for way in ("rows", "dense")]
    halves = ["cpp half, rows", "cpp half, rows, batch norm"] * (KERNELS[0] == "cpp")
    wanted = ["PEER-pytorch"] * HAS["PEER-pytorch"] + ["naive", *halves, *ours]
    wanted += ["product-key-memory"] * HAS["product-key-memory"]
    assert names == [*wanted, *(f"PKM {name}" for name in ours)]
    assert _check(steps, printed)[-1] == "torch fused"
    baseline = "PEER-pytorch" if HAS["PEER-pytorch"] else "naive"
    ratios = {c["name"]: c["baseline"] for c in passes["contenders"]}
    assert ratios["torch rows"] == baseline
    floors = passes["floors"]["PEER"]
    assert [f["name"] for f in floors] == ["square-GEMM floor", "own-shape floor"]
    for f, c in ((f, c) for f in floors for c in passes["contenders"] if c["name"] == "torch rows"):
        share = c["columns"][f"% of {f['name']}"]
        assert share == pytest.approx(100 * f["total"] / c["median_seconds"])


@pytest.mark.skipif(KERNELS[0] != "cpp", reason="no C++ compiler")
def test_layer_with_bfloat16_tables(measure):
    (passes,), printed = measure("layer", *SIZES, "--table-dtype", "bf16", "--kernels", "cpp")
    names = _check(passes, printed)
    assert names[-1] == "PKM cpp dense"


def test_step(measure):
    sizes = ("--d-key", "32,16", "--layers", "2", "--vocab", "64", "--seq-len", "32")
    comparisons, printed = measure("step", *SIZES, *sizes)
    assert [c["shape"]["d_key"] for c in comparisons] == [32, 16]
    for comparison in comparisons:
        ours = [f"PEER {kernel} {w}" for kernel in KERNELS for w in ("rows", "fused", "dense")]
        assert _check(comparison, printed) == ["dense", *ours]
        for contender in comparison["contenders"]:
            rate = contender["columns"]["tokens/s"]
            assert rate == pytest.approx(64 / contender["median_seconds"])


@pytest.mark.night
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_step_compiled(measure, monkeypatch):
    whole = torch.compile  # without backward graphs and inductor's code, which take a minute
    monkeypatch.setattr(
        torch, "compile", lambda f, **options: whole(f, **options | {"backend": "eager"})
    )
    sizes = ("--d-key", "16", "--layers", "2", "--vocab", "64", "--seq-len", "32")
    (comparison,), printed = measure("step", *SIZES, *sizes, "--kernels", "torch", "--compile")
    names = _check(comparison, printed)
    eager = ["dense", *(f"PEER torch {way}" for way in ("rows", "fused", "dense"))]
    assert names == [name for e in eager for name in (e, f"{e} compiled")]
    baselines = {c["name"]: c["baseline"] for c in comparison["contenders"]}
    assert all(baselines[f"{name} compiled"] == name for name in eager)
    assert "torch.compile took" in printed


def test_optimizer(measure):
    (comparison,), printed = measure("optimizer", *SIZES)
    names = _check(comparison, printed)
    assert names[0] == "AdamW, whole table"
    assert names[-1] == "SparseAdam"
    moved = comparison["bytes_moved"]
    assert moved[names[0]] == 7 * 4 * 256 * 32
    assert moved["RowAdamW torch, float32 moments"] == 7 * 4 * comparison["n_distinct"] * 32
    assert moved["RowAdamW torch, bfloat16 moments"] == 20 * comparison["n_distinct"] * 32


def test_retrieval(measure):
    comparisons, printed = measure("retrieval", *SIZES, "--n-experts", "64,256")
    assert [c["shape"]["n_experts"] for c in comparisons] == [64, 256]
    for comparison in comparisons:
        names = _check(comparison, printed)
        assert names[0] == "stock, forward"
        assert names[-1] == "torch, forward + backward"


def test_quick_is_a_set_of_defaults(measure):
    (comparison,), _ = measure("retrieval", "--quick", "--n-experts", "256")
    assert comparison["shape"]["n_experts"] == 256
    assert comparison["shape"]["d_model"] == 64


def test_data_is_handed_its_overrides(monkeypatch):
    seen = []
    monkeypatch.setattr("experiments.benchmarks.data.run", lambda o: seen.extend(o.overrides))
    bench.main(["data", "size=1", "~eval", "+trainer.devices=2"])
    assert seen == ["size=1", "~eval", "+trainer.devices=2"]


@pytest.mark.night
def test_both_allocators_each_in_its_own_process(tmp_path, capfd, monkeypatch):
    path = tmp_path / "bench.json"
    run = subprocess.run

    def shortened(command, **how):
        assert command[1:3] == ["-m", "experiments.bench"]
        start = (
            "from experiments import bench\nfrom experiments.gpu.toy import shorten\n"
            "shorten()\nbench.main()"
        )
        return run([command[0], "-c", start, *command[3:]], **how)

    monkeypatch.setattr(comparing.subprocess, "run", shortened)
    bench.main(["retrieval", *SIZES, "--rounds", "1", "--kernels", "torch", "--json", str(path)])
    parts = json.loads(path.read_text())["parts"]
    assert [part["allocator"] for part in parts] == ["default", "thp"]
    printed = capfd.readouterr().out
    assert printed.index("allocator: default") < printed.index("THP_MEM_ALLOC_ENABLE=1")
    assert all("stock, forward" in _check(part["comparisons"][0], printed) for part in parts)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_memory_of_one_contender(capsys):
    sizes = ("--d", "256", "--n-experts", "16384", "--tokens", "256", "--kernels", "torch")
    bench.main(["layer", *sizes, *FEW, "--memory-of", "torch dense"])
    table = 16384 * 256 * 4
    assert 2 * table < int(capsys.readouterr().out) < 6 * table  # two gradients at least


def test_what_a_process_measured_is_its_last_line(monkeypatch):
    results = [(0, "a warning\n123\n", ""), (1, "", "progress\nerror: no memory\n")]

    def run(command, **_):
        assert command[1:] == ["-m", "experiments.bench", "layer"]
        return subprocess.CompletedProcess(command, *results.pop(0))

    monkeypatch.setattr(peak.subprocess, "run", run)
    assert peak.in_own_process(["layer"]) == 123
    with pytest.raises(RuntimeError, match="measuring memory failed: error: no memory"):
        peak.in_own_process(["layer"])


def test_memory_of_all_contenders(measure, monkeypatch):
    asked = []

    def in_own_process(arguments):
        asked.append(arguments[-1])
        assert arguments[-10:-2] == [
            *("--d", "32", "--n-experts", "256", "--tokens", "64", "--d-key", "32")
        ]
        return 2**20 * len(asked)

    monkeypatch.setattr(peak, "in_own_process", in_own_process)
    (_, peaks), printed = measure("layer", *SIZES, "--memory", "--kernels", "torch")
    assert [c["name"] for c in peaks["contenders"]] == asked
    assert asked[-1] == "torch fused"
    last = peaks["contenders"][-1]
    assert last["share"] == len(asked)  # of the first one's 1 MiB
    assert f"{len(asked):.1f}" in printed


def test_rivals_that_are_not_installed_are_named(measure, monkeypatch):
    def no_module(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(rivals, "import_module", no_module)
    comparisons, printed = measure("layer", *SIZES)
    names = _check(comparisons[0], printed)
    assert names[0] == "naive"
    assert "PEER-pytorch is left out" in printed
    assert "product-key-memory is left out" in printed
    assert "pip install -e '.[bench]'" in printed
    assert {c["baseline"] for c in comparisons[0]["contenders"][1:3]} == {"naive"}


def test_another_layer_is_not_timed(monkeypatch, capsys):
    def worst(queries, sub_keys, top_k):
        scores, indices = reference.product_key_topk(-queries, sub_keys, top_k)
        return -scores, indices

    monkeypatch.setattr(rivals, "stock_topk", worst)
    with pytest.raises(SystemExit) as ended:
        bench.main(["layer", *SIZES, *FEW, "--kernels", "torch"])
    assert ended.value.code == 1
    assert "naive computes something else" in capsys.readouterr().err


@pytest.mark.parametrize("rival", HAS)
def test_rivals_compute_what_ours_do(rival):
    if not HAS[rival]:
        pytest.skip(f"{rival} is not installed")
    case = Case(SHAPE, SETTINGS)
    lines = check_agreement(case, {rival})
    assert lines[0].startswith(rival)


def test_stock_search_is_a_full_scan():
    queries, sub_keys = torch.randn(8, 2, 16), torch.randn(2, 2, 9, 8)
    scores, indices = rivals.stock_topk(queries, sub_keys, 5)
    wanted_scores, wanted = reference.product_key_topk(queries, sub_keys, 5)
    torch.testing.assert_close(scores, wanted_scores)
    assert torch.equal(indices, wanted)


def test_what_does_not_fit_is_left_out(measure, monkeypatch):
    shape = Shape(d_model=32, n_experts=256, n_tokens=64, n_heads=2, top_k=4, d_key=32)
    rows = 2 * memory.gathered_bytes(shape, SETTINGS)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * rows + 3 * 2 * 256 * 32 * 4)
    (passes,), printed = measure("layer", *SIZES)
    assert "naive" not in _check(passes, printed)
    assert "naive is left out: it would need about" in printed


def test_floor_of_the_measured_shape():
    """246 ms at T=4096, d=256, N=1024²: 131 of gathers at 22 GB/s, 72 + 43 of products."""
    shape = Shape(d_model=256, n_experts=2**20, n_tokens=4096, n_heads=8, top_k=16, d_key=256)
    measured = Rates(
        copy=1.0,
        rows=22e9,
        square=180e9,
        square_keys=400e9,
        query=(180e9, 90e9, 180e9),
        keys=200e9,
        query_type="float32",
        keys_type="bfloat16",
    )
    square, own = compute_floors("PEER", shape, 410_000, 1024, measured)
    assert [round(1e3 * s) for s in (square.gathers, square.query, square.keys)] == [130, 72, 43]
    assert round(1e3 * square.total) == 245
    assert own.query == pytest.approx(square.query * 4 / 3)
    assert own.keys == pytest.approx(2 * square.keys)


def _gate(monkeypatch, others: list[float | None]) -> list[timing.Repeat]:
    """A repeat on a machine where others use that many seconds of a core during each try."""
    clock = {"machine": 0.0, "own": 0.0}
    tries = iter(others)

    def call() -> None:
        clock["own"] += 3.0
        clock["machine"] += 3.0 + next(tries)

    monkeypatch.setattr(timing, "cpu_seconds", lambda: (clock["machine"], clock["own"]))
    monkeypatch.setattr(timing.time, "perf_counter", _ticking())
    return timing.quiet_repeat(timing.Contender(name="x", make=lambda: call), 1, "cpu")


def _ticking():
    """A clock that goes on by a quarter of a second each time it is read: a repeat reads it four
    times, and takes three quarters.
    """
    now = [0.0]

    def read() -> float:
        now[0] += 0.25
        return now[0]

    return read


def test_a_repeat_counts_if_the_machine_was_quiet(monkeypatch):
    repeat = _gate(monkeypatch, [0.05])
    assert repeat.quiet
    assert repeat.others == pytest.approx(0.05 / 0.75)
    assert repeat.seconds == pytest.approx(0.25)


def test_a_disturbed_repeat_is_made_again(monkeypatch):
    repeat = _gate(monkeypatch, [1.5, 0.3, 0.0])
    assert repeat.quiet
    assert repeat.others == pytest.approx(0)


def test_of_disturbed_repeats_the_quietest_is_kept_and_told(monkeypatch):
    repeat = _gate(monkeypatch, [1.5, 0.3, 0.6])
    assert not repeat.quiet
    assert repeat.others == pytest.approx(0.3 / 0.75)
    timed = timing.Timing(name="x", baseline=None, repeats=(repeat,))
    assert timed.n_loud == 1


def test_without_proc_stat_every_repeat_counts(monkeypatch, measure):
    monkeypatch.setattr(timing, "cpu_seconds", lambda: None)
    (comparison,), printed = measure("retrieval", *SIZES)
    assert "not gated: without /proc/stat" in printed
    assert all(r["quiet"] for c in comparison["contenders"] for r in c["repeats"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--n-experts", "257"), "--n-experts 257 must be a perfect square; nearest: 256, 289"),
        (("--d", "33"), "--d 33 must be even"),
        (("--d-key", "33"), "--d-key 33 must be even"),
        (("--top-k", "17"), "--top-k 17 must be at most 16"),
        (("--d", "many"), "--d 'many' must be whole numbers"),
        (("--kernels", "cobol"), "--kernels 'cobol' is not one of cpp, torch, triton"),
        (("--kernels", "cpp,cpp"), "--kernels cpp,cpp has cpp twice; name each once"),
        (("--rounds", "0"), "--rounds: 0 must be at least 1"),
        (("--threads", "0"), "--threads: 0 must be at least 1"),
        (("--heads", "0"), "--heads: 0 must be at least 1"),
        (("--top-k", "-1"), "--top-k: -1 must be at least 1"),
        (("--tokens", "256,0"), "--tokens 256,0: 0 must be at least 1"),
        (("--tokens", "256,8,256"), "--tokens 256,8,256 names 256 twice; name it once"),
        (("--d", "32,32"), "--d 32,32 names 32 twice"),
        (("--d-key", "32,32"), "--d-key 32,32 names 32 twice"),
        (("--json", "nowhere/at/all.json"), "there is no folder"),
        (("--json", ""), "--json . is a folder; name a file"),
        (("--kernels", ""), "--kernels '' is not one of cpp, torch, triton"),
        (("--allocator", "slab"), "invalid choice: 'slab'"),
        (("--device", "cuda"), "torch sees no GPU"),
        (("--device", "gpu"), "--device cuda, but torch sees no GPU"),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert words in refused(["layer", *SIZES, *FEW, *arguments], capsys)


def refused(arguments, capsys):
    """One line that bad input ends with."""
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("data --quick", "--quick: no option, and no override"),
        ("data size", "size: no option, and no override"),
        ("neurons -v", "-v: no option, and no override"),
        ("coordinates --seeds 0", "--seeds: 0 must be at least 1"),
        ("coordinates size", "size: no option, and no override"),
        ("coordinates --widths 0,64", "--widths 0,64: 0 must be at least 1"),
        ("coordinates --widths 32,64,32", "--widths 32,64,32 names 32 twice"),
        ("coordinates --figure x.foo", "--figure x.foo must be a PNG, with a name in .png"),
        ("coordinates --figure nowhere/x.png", "--figure nowhere/x.png: there is no folder"),
        ("harness --steps -1", "--steps: -1 must be at least 1"),
        ("harness --steps 1.5", "--steps: '1.5' is not a whole number"),
        ("harness --json nowhere/x.json", "there is no folder nowhere; make it first"),
        ("harness --json /", "--json / is a folder; name a file"),
        ("harness parts=[5]", "parts=[5]: 5 is no name; give parts=[NAME,...]"),
        ("step --quick --seq-len 0", "--seq-len: 0 must be at least 1"),
        ("step --quick --layers -1", "--layers: -1 must be at least 1"),
        ("step --quick --vocab 0", "--vocab: 0 must be at least 1"),
        ("adapters --n 8,8", "--n 8,8 names 8 twice"),
        ("adapters --rivals-n 2,2", "--rivals-n 2,2 names 2 twice"),
        ("adapters --n x", "--n 'x' must be whole numbers"),
        ("adapters --n 0", "--n 0: 0 must be at least 1"),
        ("adapters --rank 0", "--rank: 0 must be at least 1"),
        ("adapters --json nowhere/at/all.json", "there is no folder"),
        ("status --points 0", "--points: 0 must be at least 1"),
        ("trunk --processes 0", "--processes: 0 must be at least 1"),
        ("trunk --rounds 0", "--rounds: 0 must be at least 1"),
        ("trunk --seconds nan", "--seconds"),
        ("trunk --seconds 0", "--seconds: 0 must be at least 0.001"),
        ("trunk --seconds inf", "--seconds: inf must be at most 3600"),
        ("trunk --shapes d64,d64", "--shapes d64,d64 names d64 twice"),
        ("trunk --shapes d64,d65", "--shapes 'd65' is not one of d64, d96, d128, d256, peer64"),
        ("trunk --shapes d64 size=1", "--shapes d64 with overrides: leave out one of them"),
        ("trunk size", "size: no option, and no override"),
        ("trunk --json nowhere/at/all.json", "there is no folder"),
        ("nothing", "invalid choice: 'nothing'"),
    ],
)
def test_bad_input_of_the_other_measurements_is_one_line(arguments, words, capsys):
    assert words in refused(arguments.split(), capsys)


@pytest.mark.parametrize("arguments", ["harness", "trunk --shapes d64", "adapters"])
def test_a_file_that_can_t_be_written_is_refused_before_anything_is_timed(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main([*arguments.split(), "--json", "/proc/x"])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (1, "")
    assert printed.err.startswith("error: /proc/x can't be written: ")
    assert printed.err.count("\n") == 1


def test_help_names_every_measurement_and_each_has_help(capsys):
    def shown(*words):
        with pytest.raises(SystemExit) as ended:
            bench.main([*words, "--help"])
        assert not ended.value.code
        return capsys.readouterr().out

    known = {found.name: found.about for found in find_modules(bench.FOLDER)}
    assert {"layer", "step", "optimizer", "retrieval", "data", "adapters"} <= set(known)
    listed = shown()
    for name, about in known.items():
        assert f"\n    {name}" in listed
        assert about.split()[0] in listed
        one = shown(name)
        assert f"experiments.bench {name}" in one
        assert about in one


NEW = """\
\"\"\"How long nothing takes.\"\"\"

def arguments(parser):
    parser.add_argument("--times", type=int, default=1)

def run(options):
    print("nothing", options.times, "times")
"""


def test_a_file_is_a_measurement(tmp_path, monkeypatch, capsys):
    (tmp_path / "nothing.py").write_text(NEW)
    (tmp_path / "_part_of_it.py").write_text("raise ValueError")
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setattr("experiments.benchmarks.__path__", [str(tmp_path)])
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    listed = capsys.readouterr().out
    assert " nothing " in listed
    assert "How long nothing takes" in listed
    assert "part_of_it" not in listed
    bench.main(["nothing", "--times", "3"])
    assert capsys.readouterr().out == "nothing 3 times\n"
    assert "unrecognized arguments: size=1" in refused(["nothing", "size=1"], capsys)
