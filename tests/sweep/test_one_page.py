"""`show`: one run, whatever has become of it."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from experiments import show
from experiments.records.files import read_record, write_record
from experiments.sweep import manifest
from experiments.sweep.queues import _waiting
from experiments.sweep.queues.workers import Workers
from experiments.system.claims import claimed, log_event
from tests.conftest import SMALL_PEER


@pytest.fixture
def runs(trained, tmp_path):
    """A sweep of a finished run and two more of its budget, a better and a worse one, without
    checkpoints.
    """
    own = trained(*SMALL_PEER)
    folder = tmp_path / "s"
    shutil.copytree(own, folder / own.name, ignore=shutil.ignore_patterns("*.log", "wandb"))
    record = read_record(own / "record.json")
    for run_id, loss in (("b" * 12, record.val_loss - 0.5), ("c" * 12, record.val_loss + 0.5)):
        (folder / run_id).mkdir()
        write_record(folder / run_id, replace(record, run_id=run_id, val_loss=loss))
    return folder / own.name


def section(out, head):
    return next(part for part in out.split("\n\n") if part.startswith(head))


def test_a_finished_run_is_on_one_page(runs, command):
    code, out, err = command(show, runs)
    assert (code, err) == (0, "")
    record = read_record(runs / "record.json")
    facts = section(out, "state")
    for text in (
        "done", f"{record.val_loss:.4f} nats/token", f"{record.train_loss:.4f}, of the last tenth",
        f"{record.n_steps} of {record.n_steps}", "2e+09 FLOPs",
    ):  # fmt: skip
        assert text in facts
    curve = section(out, "training loss, nats/token").splitlines()
    assert sum("*" in line for line in curve) > 3
    assert curve[-1].endswith(f"{record.n_steps} steps")
    place = section(out, "sweep s: 3 runs, 3 done")
    assert "place 2 of the 3 finished runs of budget=2e+09, by held-out loss; the best: " in place
    assert place.splitlines()[1].endswith("; 0.5000 behind it")
    assert "shown from their folders" in place.splitlines()[2]
    steps = [line.split()[2].removeprefix("experiments.") for line in out.splitlines()[-5:]]
    assert steps == ["evaluate", "evaluate", "generate", "inspect", "export"]


def test_only_settings_that_are_not_the_models_defaults_are_listed(runs, command):
    lines = section(command(show, runs)[1], "setting").splitlines()
    assert lines[0].split("  ")[-1].strip() == "default of model=peer"
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert rows["ladder.seq_len"] == ["32", "256"]
    assert rows["n_experts"] == ["64", "4096"]
    assert rows["budget"] == ["2000000000", "1e+11"]
    assert rows["data.corpus._target_"][0] == "tests.conftest.Nursery"
    assert not {"seed", "model_name", "sweep", "paths.results", "optim.lr"} & rows.keys()


def test_of_a_run_without_its_checkpoint_nothing_reads_the_model(runs, command):
    out = command(show, runs.parent / ("c" * 12))[1]
    assert "place 3 of the 3" in out
    next_ = section(out, "next:").splitlines()[1:]
    assert len(next_) == 1
    assert "experiments.collect" in next_[0]


def test_a_layer_that_sees_later_tokens_is_not_asked_to_generate(runs, command):
    write_record(runs, replace(read_record(runs / "record.json"), causal_eval=False))
    out = command(show, runs)[1]
    assert "it sees later tokens (expert choice)" in out
    assert "experiments.generate" not in out
    assert "tasks=" not in out


@pytest.fixture
def point(make):
    """A point that a manifest names, without a folder yet."""
    point = make("seed=1")
    manifest.add(point.run_dir.parent, [manifest.make_entry(point, None)])
    return point


def last_line(command, run_dir):
    code, out, err = command(show, run_dir)
    assert (code, err) == (0, "")
    return out, out.splitlines()[-1].strip()


def test_what_has_not_ended_says_how_it_goes_on(point, command):
    run_dir, sweep = point.run_dir, point.run_dir.parent
    retry = f"python -m experiments.retry {sweep} --run {point.run_id}"
    out, next_ = last_line(command, run_dir)
    assert section(out, "state").startswith("state   waiting\nsteps   0 of ")
    assert {line.split()[0] for line in section(out, "setting").splitlines()} >= {"size", "seed"}
    assert next_ == retry

    with Workers().session("1 run", [point]) as session:
        session.submit([point], sweep / "code", {})
    out, next_ = last_line(command, run_dir)
    assert f"queued: until python -m experiments.work {sweep} takes it" in out
    assert next_.startswith(f"python -m experiments.status {sweep} --watch   # until python -m ")
    _waiting.take_out(sweep, point.run_id)

    run_dir.mkdir()
    row = {"step": 3, "n_steps": 9, "loss": 4.25, "flops": 9e6, "n_tokens": 300, "n_params": 1234}
    (run_dir / "progress.json").write_text(json.dumps({**row, "tokens_per_second": 100.0}))
    (run_dir / "history.csv").write_text("step,n_tokens,flops,loss\n1,1,1,5\n3,3,3,4.25\n")
    with claimed(run_dir):
        out, next_ = last_line(command, run_dir)
    assert section(out, "state").splitlines()[1:4] == [
        "training loss  4.2500 now",
        "parameters     1.23k",
        "FLOPs/token    30k in training",
    ]
    assert "training loss, nats/token" in out
    assert next_ == f"python -m experiments.status {sweep} --watch"

    log_event(run_dir, "interrupted", why="SIGTERM at step 3", step=3)
    out, next_ = last_line(command, run_dir)
    assert "interrupted: SIGTERM at step 3" in out
    assert next_ == retry


@pytest.mark.parametrize(
    ("status", "shown", "more"),
    [
        ("failed", "failed: ValueError: \\x1b[2J too wide", ""),
        ("diverged", "diverged", " --diverged   # from the first step"),
    ],
)
def test_what_ended_badly_says_why_in_plain_characters(runs, command, status, shown, more):
    record = read_record(runs / "record.json")
    error = "Traceback\nValueError: \x1b[2J too wide"
    config = {**record.config, "model_name": "\x1b[31mred", "\x07": "\u202ebell"}
    bad = replace(record, status=status, error=error, val_loss=None, config=config)
    write_record(runs, bad)
    code, out, err = command(show, runs)
    assert (code, err) == (0, "")
    assert shown in section(out, "state").splitlines()[0]
    assert "default of model=\\x1b[31mred" in out
    assert "\\x07" in out
    assert "\\u202ebell" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert out.splitlines()[-1].endswith(f"--run {runs.name}{more}")
    assert "place" not in section(out, "sweep s")


def test_what_is_no_run_is_one_line(runs, command, tmp_path):
    for run, message in [
        (runs.parent, f"{runs.parent} is not a run of a sweep; name the folder of one, results/"),
        (runs.parent / "none", f"{runs.parent / 'none'} is not a run of {runs.parent}; name "),
        (tmp_path / "x" / "y", f"{tmp_path / 'x' / 'y'} is not a run: it is not there; name "),
    ]:
        code, out, err = command(show, run)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {message}")


def test_nothing_is_written(runs, command):
    before = {path: os.stat(path).st_mtime_ns for path in sorted(runs.parent.rglob("*"))}  # noqa: PTH116
    command(show, runs)
    after = {path: os.stat(path).st_mtime_ns for path in sorted(runs.parent.rglob("*"))}  # noqa: PTH116
    assert after == before
