"""Command line from the user's seat: what it prints, writes, refuses and repeats."""

import json
import re

import pytest

from tests.conftest import TINY, python


def written(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "model=dense,peer", "n_experts=64"], "which has no experts"),
        (["budget=1e5"], "is below one step"),
        (["model=peer", "size=200", "budget=1e18"], "GiB of memory and there are"),
        (["model=peer", "n_experts=1000000000000", "budget=1e12"], "GiB of memory and there are"),
        (["trainer.precision=8"], "trainer.precision=8 must be of type str"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(run, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert written(tmp_path) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(run, tmp_path):
    code, out, _ = run("-m", "model=dense,moe,pkm,peer", "size=2,4", "budget=1e12", "dry_run=true")
    assert code == 0
    assert out.count("\npeer") == 2
    for column in ("params", "active", "FLOPs/token", "tokens", "epochs", "steps", "lr", "memory"):
        assert column in out
    assert "attention.projections" not in out
    assert "8 runs, " in out
    assert "GFLOP/s" in out
    assert written(tmp_path) == []


def planned(out):
    """Rows of a plan by their columns; what all share is in each, and what stands after the last
    column is its note.
    """
    lines = out.split("\n\n")[0].splitlines()
    shared = lines.pop(0).removeprefix("each run: ") if lines[0].startswith("each run: ") else ""
    cells = dict(cell.split(" ", 1) for cell in shared.split(", ")) if shared else {}
    head, *rows = [re.split(r"  +", line.strip()) for line in lines]
    n = len(head)
    return [cells | dict(zip(head, row[:n], strict=True)) | {"note": row[n:]} for row in rows]


def test_a_sweep_is_a_union_of_grids_and_the_command_line_beats_them(run):
    grids = (
        "hydra.sweeper.grids=[{size:'1,2',budget:1e10},{size:'2,3',seed:1},{size:2,budget:1e10}]"
    )
    base = ("-m", "dry_run=true", "trainer.flops_per_second=1e9", *TINY, grids)

    def points(*arguments):
        code, out, _ = run(*base, *arguments)
        assert code == 0
        return [(row["model"], int(row["size"]), row["budget"]) for row in planned(out)]

    small, large = "1e+10", "1e+11"
    sizes = [(1, small), (2, small), (2, large), (3, large)]  # the third grid adds nothing
    assert points("model=dense") == [("dense", *each) for each in sizes]
    assert points("model=dense", "budget=1e10") == [("dense", i, small) for i in (1, 2, 3)]
    assert points("model=none", "budget=1e10", "seed=0") == [("none", i, small) for i in (1, 2, 3)]

    assert points("model=dense,none", "hydra.sweeper.only={size:[1,3],model:none}") == [
        ("none", 1, small),
        ("none", 3, large),
    ]
    assert points("model=dense", "hydra.sweeper.only={budget:1e11}") == [
        ("dense", 2, large),
        ("dense", 3, large),
    ]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("{size:[1,7]}", "no point has size=7; there are 1, 2"),
        ("{model:dense,size:2}", "no point has size=2; there are 1"),
        ("{siz:1}", "hydra.sweeper.only: siz is not a key of the config"),
        ("{model.n_heads:4}", "hydra.sweeper.only: model.n_heads is not a key of the config"),
    ],
)
def test_a_part_of_a_sweep_that_is_not_there_is_refused(run, tmp_path, only, message):
    grids = "hydra.sweeper.grids=[{size:1,model:dense},{size:2,model:none}]"
    code, _, err = run("-m", *TINY, grids, f"hydra.sweeper.only={only}")
    assert code == 2
    assert message in err
    assert written(tmp_path) == []


def test_the_flag_of_a_sweep_may_stand_anywhere(run):
    arguments = ("dry_run=true", "-m", "model=dense,none", "trainer.flops_per_second=1e9", *TINY)
    code, out, _ = run(*arguments)
    assert (code, "2 runs" in out) == (0, True)


def test_points_that_look_alike_are_shown_with_their_differences(run):
    code, out, _ = run(
        *("-m", "dry_run=true", "trainer.flops_per_second=1e9", *TINY, "model=dense"),
        *("ladder.lr=1e-3,2e-3", "seed=0,1", "optim.warmup=0.1"),
    )
    assert code == 0
    assert [row["note"] for row in planned(out)] == [
        ["lr=0.001", "seed=0,1"],
        ["lr=0.002", "seed=0,1"],
    ]


def test_the_papers_layer_is_planned_on_any_machine(run):
    code, out, _ = run("ladder=paper", "model=peer", "size=8", "budget=6e18", "dry_run=true")
    assert code == 0
    assert "1048576" in out
    assert "2.27G" in out  # facts of Fig. 3a: the ablation model's total parameters


def test_one_run_is_recorded_then_skipped(run, tmp_path):
    arguments = ("model=peer", "n_experts=64", "budget=1e9", "size=1", *TINY)
    code, out, _ = run(*arguments)
    assert code == 0
    assert "loss" in out
    (path,) = (tmp_path / "results" / "default").glob("*/record.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["model"], record["n_experts"]) == ("done", "peer", 64)
    stamp = path.stat().st_mtime_ns
    code, out, _ = run(*arguments)
    assert code == 0
    assert "done before" in out
    assert path.stat().st_mtime_ns == stamp


def test_hydras_own_options_are_there(run):
    code, out, _ = run("--cfg", "job")
    assert code == 0
    assert "n_experts: null" in out


def test_the_module_is_a_command():
    done = python("-m", "experiments.run", "n_experts=9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_real_text_trains(run, cache, monkeypatch):
    """Example of the docs, small: WikiText-2, its wheel and vocabulary included."""
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(cache))
    code, out, _ = run("model=peer", "size=1", "budget=5e10", "logger=csv")
    assert code == 0
    loss = float(re.search(r"loss ([\d.]+)  perplexity", out)[1])  # not a line of progress
    assert 5.0 < loss < 7.0  # log(2048) is 7.6


def test_a_plan_imports_neither_lightning_nor_wandb_nor_torchs_compiler(tmp_path):
    """They take seconds, which a dry run or a sweep that is done has no use for; and an operation
    on the meta device may ask for the compiler.
    """
    code = (
        "import runpy, sys; runpy.run_module('experiments.run', run_name='__main__'); "
        "slow = {'lightning', 'wandb', 'torch._dynamo', 'torch.fx.experimental.symbolic_shapes'}; "
        "print(sorted((slow | {'torch'}) & set(sys.modules)))"
    )
    words = ("-m", "model=peer,moe", "optim=glob(*)", "dry_run=true", "budget=1e12")
    done = python("-c", code, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("['torch']")
