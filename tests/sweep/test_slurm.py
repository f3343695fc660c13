"""What is asked of sbatch; with real daemons: tests/slurm."""

import json
import os
from dataclasses import asdict

import pytest

from experiments.sweep import submission
from experiments.sweep.queue import last_used, tasks_of
from experiments.sweep.queues import slurm
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.submission import Submission


def test_resources_become_sbatchs_options():
    resources = Slurm(
        partition="gpu", time="2:00:00", max_parallel=3, gpus_per_node=4, extra=("--exclusive",)
    )
    options = resources.options(devices=4, num_nodes=2, n_tasks=10)
    assert options == [
        "--partition=gpu", "--time=2:00:00", "--gpus-per-node=4", "--nodes=2",
        "--ntasks-per-node=4", "--signal=USR1@120", "--array=0-9%3", "--requeue",
        "--open-mode=append", "--exclusive",
    ]  # fmt: skip


def given(name="20260101-000000-000000", **settings):
    resources = {k: v for k, v in asdict(Slurm(**settings)).items() if k != "watch"}
    return Submission(
        name=name, run_ids=("a", "b"), code="c", devices=1, num_nodes=1, resources=resources
    )


def submit(sweep_dir, **settings):
    return slurm.give(sweep_dir, given(**settings), Slurm(**settings))


@pytest.fixture
def slurm_commands(tmp_path, monkeypatch):
    """Programs: sbatch keeps its arguments, squeue prints the file `out`, sacct fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "sbatch": f'printf "%s\\n" "$@" >{folder}/asked; env >{folder}/environment; echo 28',
        "squeue": f"cat {folder}/out",
        "sacct": "exit 1",
    }
    for name, text in texts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (folder / "out").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_submission_of_an_earlier_version_is_understood(tmp_path, slurm_commands):
    path = tmp_path / "slurm" / "20251101-120000-000000.json"
    path.parent.mkdir()
    path.write_text(
        '{"name": "20251101-120000-000000", "run_ids": ["a", "b"], "code": "c", "devices": 1, '
        '"num_nodes": 1, "resources": {"partition": "gpu", "account": null, "qos": null, '
        '"time": "2:00:00", "cpus_per_task": 4, "mem": null, "gpus_per_node": 1, '
        '"max_parallel": 2, "signal_seconds": 60, "extra": ["--exclusive"], "setup": "x"}}'
    )
    (slurm_commands / "out").write_text(
        f"28|1|experiments-{tmp_path.name}-20251101-120000-000000|PENDING|(JobHeldUser)\n"
    )
    task = tasks_of(tmp_path)["b"]
    assert (task.job, task.detail, task.release) == (
        "28_1", "JobHeldUser", "scontrol release 28_1",
    )  # fmt: skip
    assert task.log == tmp_path / "slurm" / "28_1.out"
    found = last_used(tmp_path)
    assert found == Slurm(
        partition="gpu", time="2:00:00", cpus_per_task=4, gpus_per_node=1, max_parallel=2,
        signal_seconds=60, extra=("--exclusive",), setup="x",
    )  # fmt: skip


DAMAGES = {
    "empty": "", "no JSON": "{", "no submission": "{}", "a list": "[]", "nested": "[" * 100_000,
    "no resources": '{"name": "x", "run_ids": [], "resources": null}',
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_submission_is_named_and_the_others_are_used(
    tmp_path, slurm_commands, capsys, text
):
    submit(tmp_path, partition="old")
    path = tmp_path / "slurm" / "20260202-000000-000000.json"
    path.write_text(text)
    names = [
        f"experiments-{tmp_path.name}-{name}" for name in ("20260101-000000-000000", path.stem)
    ]
    lines = [f"28|{i}|{name}|PENDING|(Priority)\n" for i, name in enumerate(names)]
    (slurm_commands / "out").write_text("".join(lines) + "29|0|another|RUNNING|node\n")
    submission._warn.cache_clear()
    assert {run_id: task.job for run_id, task in tasks_of(tmp_path).items()} == {"a": "28_0"}
    assert last_used(tmp_path).partition == "old"
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path} is damaged (not a submission: ")
    assert err.endswith("); move it away; the same command submits its points again\n")
    assert err.count("\n") == 1
    assert [row.job for row in slurm.queued(tmp_path)] == ["28_0", "28_1"]  # for `cancel`
    (tmp_path / "slurm" / "20260101-000000-000000.json").unlink()
    with pytest.raises(ValueError, match="has no submission that can be read; give the command"):
        last_used(tmp_path)


@pytest.mark.parametrize(
    ("danger", "why"),
    [("mode", r"can be written by others \(mode 666\)"), ("link", "is a symbolic link")],
)
def test_resources_that_another_may_have_written_are_not_asked_for(tmp_path, danger, why):
    path = tmp_path / "slurm" / "20260101-000000-000000.json"
    path.parent.mkdir()
    path.write_text(json.dumps(asdict(given(setup="touch planted"))))
    if danger == "mode":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match=f"{path} {why}.* would run its resources as you; give th"):
        last_used(tmp_path)


def test_a_group_s_umask_leaves_resources_that_can_be_asked_for_again(
    tmp_path, slurm_commands, capsys
):
    before = os.umask(0o002)
    try:
        submit(tmp_path, setup="module load x")
    finally:
        os.umask(before)
    assert last_used(tmp_path).setup == "module load x"
    path = tmp_path / "slurm" / "20260101-000000-000000.json"
    assert capsys.readouterr().out == f"from {path}: setup='module load x' extra=[]\n"


def test_a_path_has_no_replacement_symbols_for_sbatch(tmp_path, slurm_commands):
    sweep = tmp_path / "100%u %j"
    sweep.mkdir()
    submit(sweep)
    asked = (slurm_commands / "asked").read_text().splitlines()
    assert f"--output={tmp_path}/100%%u %%j/slurm/%A_%a.out" in asked
    bad = tmp_path / "back\\slash"
    bad.mkdir()
    with pytest.raises(ValueError, match="sbatch takes no backslash in a path"):
        submit(bad)
    assert list(bad.iterdir()) == []
