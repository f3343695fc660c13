"""What a sweep remembers: manifest, snapshot, states, tables; and what a second command does."""

import json
import os
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import experiments
from experiments import collect
from experiments.execute import execute
from experiments.point import make_point
from experiments.records import read_record, write_record
from experiments.sweep import local, manifest
from experiments.sweep.planning import choose, plan_points, set_aside_diverged
from experiments.sweep.slurm import Resources, in_arrays
from experiments.sweep.snapshot import take_snapshot
from experiments.sweep.states import read_states, read_sweep
from experiments.sweep.status_table import status_text
from experiments.system.claims import claimed, note
from experiments.system.environment import SNAPSHOT_DIFF, SNAPSHOT_NAME, git_diff
from tests.conftest import REPOSITORY


def test_a_manifest_keeps_points_and_their_last_line_holds(make, sweep):
    a, b = make(), make("seed=1")
    manifest.add(sweep, [manifest.entry_of(a, "one"), manifest.entry_of(b, "one")])
    manifest.add(sweep, [manifest.entry_of(a, "two")])
    found = manifest.read(sweep)
    assert list(found) == [a.run_id, b.run_id]
    assert [e.code for e in found.values()] == ["two", "one"]
    assert make_point(found[b.run_id].raw).run_id == b.run_id
    assert Path(found[a.run_id].raw["paths"]["cache"]).is_absolute()


def test_a_line_cut_short_by_a_kill_costs_no_other(make, sweep):
    a, b = make(), make("seed=1")
    manifest.add(sweep, [manifest.entry_of(a, None)])
    path = sweep / manifest.MANIFEST_NAME
    path.write_text(path.read_text() + '{"run_id": "dead')
    manifest.add(sweep, [manifest.entry_of(b, None)])
    assert list(manifest.read(sweep)) == [a.run_id, b.run_id]


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not a sweep: it has no manifest.jsonl"):
        manifest.read(tmp_path)


def test_a_snapshot_is_the_code_and_runs(sweep):
    folder = take_snapshot(sweep)
    assert folder == take_snapshot(sweep)
    copy = folder / "src" / "experiments" / "run.py"
    assert copy.read_bytes() == (Path(experiments.__file__).parent / "run.py").read_bytes()
    assert set(json.loads((folder / SNAPSHOT_NAME).read_text())) == {"git_commit", "git_dirty"}
    code = (
        "import experiments, pathlib\n"
        "import experiments.config.paths as p, experiments.system.environment as e\n"
        "here = pathlib.Path(experiments.__file__).parent\n"
        "print(here, p.conf_dir(), p.sbatch_dir(), e.git_state(here)['git_commit'])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"},
        cwd=sweep,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    commit = json.loads((folder / SNAPSHOT_NAME).read_text())["git_commit"]
    assert out == [str(p) for p in (copy.parent, folder / "conf", folder / "sbatch", commit)]


def test_a_snapshot_s_diff_is_for_its_owner_alone(sweep, monkeypatch):
    monkeypatch.setattr("experiments.sweep.snapshot.git_diff", lambda _: "- old\n+ token\n")
    folder = take_snapshot(sweep)
    holding = [path for path in folder.iterdir() if path.is_file() and "token" in path.read_text()]
    assert [path.name for path in holding] == [SNAPSHOT_DIFF]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert git_diff(folder / "src" / "experiments") == "- old\n+ token\n"
    holding[0].unlink()
    assert git_diff(folder / "src" / "experiments") is None


def test_states_come_from_the_files(make, sweep):
    names = ("waiting", "done", "diverged", "failed", "running", "interrupted", "killed")
    points = {name: make(f"seed={i}") for i, name in enumerate(names)}
    manifest.add(sweep, [manifest.entry_of(p, None) for p in points.values()])
    done = execute(points["done"])
    for name in ("diverged", "failed"):
        record = replace(done, run_id=points[name].run_id, status=name, error="Traceback\nOops: x")
        write_record(points[name].run_dir, record)
    for name in ("interrupted", "killed"):
        points[name].run_dir.mkdir()
        note(points[name].run_dir, "started")
    note(points["interrupted"].run_dir, "interrupted", why="SIGTERM at step 9", step=9)
    with claimed(points["running"].run_dir):
        (points["running"].run_dir / "progress.json").write_text(
            json.dumps(
                {"step": 40, "n_tokens": 40 * 128, "tokens_per_second": 128.0, "updated": 9e9}
            )
        )
        whole = read_sweep(sweep)
        found = {p.run_id: p for p in whole.points}
    assert {n: found[p.run_id].state for n, p in points.items()} == {n: n for n in names}
    running = found[points["running"].run_id]
    assert running.seconds_left == pytest.approx(running.n_steps - 40)
    assert found[points["failed"].run_id].detail == "Oops: x"
    assert found[points["interrupted"].run_id].n_stops == 1
    table = status_text("s", whole, (), shorten=False)
    assert "sweep s: 7 points, 1 done, 1 running, 1 waiting, 1 interrupted, 1 killed" in table
    assert f"40/{running.n_steps}" in table


def test_retry_chooses(make):
    points = {name: make(f"seed={i}") for i, name in enumerate(("new", "failed", "diverged"))}
    done = execute(points["new"])
    (points["new"].run_dir / "record.json").unlink()
    for name in ("failed", "diverged"):
        write_record(points[name].run_dir, replace(done, status=name))

    def run(retry):
        again = [make(f"seed={i}", f"retry={retry}") for i in range(3)]
        return {p.config.seed for p in choose(again).run}

    assert run("failed") == {0, 1}
    assert run("none") == {0}
    assert run("all") == {0, 1, 2}
    with claimed(points["new"].run_dir):
        assert run("failed") == {1}


def test_a_diverged_run_starts_from_its_first_step_if_asked(make, sweep, capsys):
    hot = ("ladder.lr=1e3", "optim.grad_clip=1e9", "budget=2e10")
    point = make(*hot)
    assert execute(point).status == "diverged"
    local.run_one(make(*hot).raw)
    assert "diverged before" in capsys.readouterr().out
    local.run_one(make(*hot, "retry=all").raw)
    assert {p.name for p in (point.run_dir / "diverged-1").iterdir()} == {
        "last.ckpt.old",
        "record.json.old",
    }
    assert read_record(point.run_dir / "record.json").status == "diverged"


@pytest.mark.parametrize("retry", ["failed", "all"])
def test_a_run_that_ended_since_it_was_chosen_is_not_set_aside(make, retry):
    """Another process has finished it meanwhile: finished work is never done again."""
    point = make(f"retry={retry}")
    (chosen,) = choose([point]).run
    record = execute(point)
    set_aside_diverged([chosen])
    assert read_record(point.run_dir / "record.json") == record
    assert not list(point.run_dir.glob("diverged-*"))


def test_a_diverged_run_that_another_process_has_is_left_to_it(make):
    point = make("retry=all")
    record = replace(execute(point), status="diverged")
    write_record(point.run_dir, record)
    with claimed(point.run_dir):
        set_aside_diverged([point])
    assert read_record(point.run_dir / "record.json") == record
    set_aside_diverged([point])
    assert not (point.run_dir / "record.json").exists()


def test_collect_writes_both_tables_or_neither(make, sweep, monkeypatch):
    record = execute(make("eval=[validation]"))
    rows = collect.collect_rows(sweep)
    csv, parquet = collect.write_tables(sweep, rows)
    for table in (pd.read_csv(csv), pd.read_parquet(parquet)):
        assert table["run_id"].tolist() == [record.run_id]
        assert table["val_loss"][0] == record.val_loss
        scored = record.evaluations["validation"]["perplexity"]
        assert table["validation.perplexity"][0] == scored
        assert table[[c for c in table if c.startswith("share.")]].sum(axis=1)[0] == pytest.approx(
            1
        )
    before = csv.read_bytes(), parquet.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="no space"):
        collect.write_tables(sweep, [{"run_id": "x"}])
    assert (csv.read_bytes(), parquet.read_bytes()) == before
    assert not list(sweep.glob(".table-*"))


def test_records_from_elsewhere_are_adopted_and_seen(make, sweep, capsys):
    """A checkout has a study's records and neither its manifest nor its checkpoints."""
    done, new = make(), make("seed=1")
    execute(done)
    for path in done.run_dir.iterdir():
        if path.name != "record.json":
            path.unlink()
    local.run_sweep([done.raw, new.raw], 1)
    assert "1 of 2 runs are done already" in capsys.readouterr().out
    assert {p.run_id: p.state for p in read_states(sweep)} == {
        done.run_id: "done", new.run_id: "done"
    }  # fmt: skip
    lines = (sweep / manifest.MANIFEST_NAME).read_text().splitlines()
    local.run_sweep([done.raw, new.raw], 1)
    assert (sweep / manifest.MANIFEST_NAME).read_text().splitlines() == lines


def test_two_points_that_are_one_run_are_refused(make):
    raw = dict(make().raw)
    with pytest.raises(ValueError, match="two points of the sweep are one run"):
        plan_points([raw, {**raw, "sweep": "s"}])


def test_ranks_need_slurm_or_torchrun(make):
    raw = make("trainer.devices=2").raw
    with pytest.raises(ValueError, match=r"use hydra/launcher=slurm, or start single runs"):
        local.run_sweep([raw], 1)
    with pytest.raises(ValueError, match="must be a multiple of the 3 ranks"):
        make("trainer.devices=3")


def test_resources_become_sbatchs_options():
    resources = Resources(
        partition="gpu", time="2:00:00", max_parallel=3, gpus_per_node=4, extra=("--exclusive",)
    )
    options = resources.options(devices=4, num_nodes=2, n_tasks=10)
    assert options == [
        "--partition=gpu", "--time=2:00:00", "--gpus-per-node=4", "--nodes=2",
        "--ntasks-per-node=4", "--signal=USR1@120", "--array=0-9%3", "--requeue",
        "--open-mode=append", "--exclusive",
    ]  # fmt: skip
    assert [len(part) for part in in_arrays(["x"] * 2500)] == [1000, 1000, 500]


@pytest.mark.slow
def test_the_commands_name_what_they_cannot_find(tmp_path):
    for name in ("status", "cancel", "retry", "collect"):
        done = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", "nope", "--results", str(tmp_path)],
            capture_output=True, text=True, check=False, cwd=REPOSITORY,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr == f"error: no sweep 'nope' in {tmp_path}; it has none\n"


def test_what_a_killed_collect_left_is_removed_and_what_runs_is_not(tmp_path):
    for name, age in ((".table-old", 4000), (".table-new", 10)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.csv").write_text("a")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    collect.write_tables(tmp_path, [{"run_id": "x"}])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".table-new", "records.csv", "records.parquet"}
