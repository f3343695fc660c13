"""What status, collect and a sweep make of torn files, of many points, and of races."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments import cancel, collect, retry, status
from experiments.benchmarks.core.made_sweep import make_sweep
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.sweep import manifest, progress, states
from experiments.sweep.app import FIRST
from experiments.sweep.planning import choose
from experiments.sweep.point import Handling
from experiments.sweep.progress import Heartbeat, read_progress
from experiments.sweep.states import read_states, read_sweep
from experiments.sweep.status_table import status_text
from experiments.system.claims import claimed, log_event
from tests.conftest import TINY, python


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """100 points: see make_sweep."""
    folder = tmp_path_factory.mktemp("results") / "made"
    make_sweep(folder, 100)
    return folder


@pytest.fixture
def run(tmp_path):
    """A sweep of one point that was begun, and its folder."""
    entry = manifest.Entry(
        run_id="abc", label="dense size=1", planned_flops=1e9, n_steps=10, code=None, config="{}"
    )
    manifest.add(tmp_path, [entry])
    (tmp_path / "abc").mkdir()
    log_event(tmp_path / "abc", "started")
    return tmp_path / "abc"


def state(run):
    (point,) = read_states(run.parent)
    return point


def count(points):
    found = [p.state for p in points]
    return {name: found.count(name) for name in dict.fromkeys(found)}


def test_every_point_has_a_state_and_damage_is_one(made):
    points = read_states(made)
    assert count(points) == {
        "done": 92, "failed": 1, "diverged": 1, "interrupted": 1, "killed": 1, "waiting": 2,
        "damaged": 2,
    }  # fmt: skip
    (one, two) = [p for p in points if p.state == "damaged"]
    assert one.detail.startswith(f"{made / one.run_id / 'record.json'} is damaged (")
    assert "run the same command again" in two.detail
    done = points[0]
    assert (done.state, done.step, done.done_flops) == ("done", done.n_steps, done.planned_flops)
    assert done.n_stops == 1
    (failed,) = [p for p in points if p.state == "failed"]
    assert failed.detail == "OSError: made up"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"step": ', b"\xd4", b'{"step": "x", "updated": null}']
)
def test_a_torn_progress_costs_its_information_only(run, content):
    (run / "progress.json").write_bytes(content)
    assert read_progress(run) == {}
    assert (state(run).state, state(run).step) == ("killed", 0)
    point = SimpleNamespace(
        app=FIRST, handling=Handling(sweep="s", log_every_seconds=0.0), own_work=1.0,
        work_before=0.0, run_dir=run, describe=lambda: "p",
    )  # fmt: skip
    progress.SweepProgress([point], None).update([point])


def test_a_torn_journal_costs_its_lines_only(run):
    path = run / "events.jsonl"
    path.write_bytes(b"null\n\xd4\xff\n{}\n" + path.read_bytes() + b'{"event": "interr')
    assert state(run).state == "killed"


def test_files_that_cannot_be_read_are_a_state(run):
    (run / "record.json").mkdir()
    assert state(run).state == "damaged"
    (run / "events.jsonl").unlink()
    (run / "events.jsonl").mkdir()
    found = state(run)
    assert found.state == "damaged"
    assert f"{run / 'events.jsonl'} can't be read (Is a directory)" in found.detail


def test_a_run_that_ends_while_it_is_looked_at_is_done(made, run, monkeypatch):
    """The record is written after the first look and before the claim is asked for."""
    record = next(made.glob("*/record.json"))

    def ends(run_dir):
        (run_dir / "record.json").write_bytes(record.read_bytes())
        return False

    (run / ".claim").touch()
    monkeypatch.setattr(states, "is_claimed", ends)
    assert state(run).state == read_record(record).status


def test_progress_of_an_earlier_attempt_is_not_this_ones(run):
    row = {"step": 4, "n_tokens": 400, "tokens_per_second": 10.0, "updated": time.time() - 9000}
    (run / "progress.json").write_text(json.dumps(row))
    with claimed(run):
        found = state(run)
    assert (found.state, found.step, found.detail) == ("running", 4, "")
    assert found.tokens_per_second is found.seconds_left is None


def test_a_running_run_without_a_sign_of_life_is_named(run, monkeypatch):
    now = time.time()
    monkeypatch.setattr(states.time, "time", lambda: now + 1000)
    with claimed(run):
        assert state(run).detail.startswith("no progress for 10")


def test_a_clock_set_back_does_not_stop_the_heartbeat(run, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    beat = Heartbeat(SimpleNamespace(run_dir=run, planned={"n_steps": 10, "n_params": 7}))
    beat({"step": 1.0})
    monkeypatch.setattr(progress.time, "time", lambda: 0.0)
    clock[0] += 2
    beat({"step": 2.0})
    assert read_progress(run)["step"] == 2
    assert (state(run).step, state(run).n_params) == (2, 7)


def test_no_plan_of_steps_is_no_division(run):
    (run.parent / "manifest.jsonl").unlink()
    (run / "config.yaml").write_text("model_name: peer\nsize: 2\nbudget: 1e9\nseed: 3\n")
    (run / "progress.json").write_text('{"step": 4, "n_tokens": 9, "tokens_per_second": 1.0}')
    found = read_sweep(run.parent)
    (point,) = found.points
    assert (point.label, point.n_steps, point.done_flops) == (
        "peer size=2 budget=1e+09 seed=3", 0, 0.0
    )  # fmt: skip
    assert "4/?" in status.status_text("s", found, (), shorten=False)


def test_lost_lines_are_noted_and_their_runs_shown(made, tmp_path):
    lines = (made / "manifest.jsonl").read_bytes().splitlines()
    whole = read_states(made)
    kept = (made / "manifest.jsonl").read_bytes()
    try:
        (made / "manifest.jsonl").write_bytes(b"\n".join([lines[0][:-9], *lines[1:]]) + b"\n")
        found = read_sweep(made)
    finally:
        (made / "manifest.jsonl").write_bytes(kept)
    damage, lost = found.notes
    assert "manifest.jsonl: 1 damaged line: 1 (" in damage
    assert lost.endswith(f"shown from their folders: {whole[0].run_id}")
    assert sorted(p.run_id for p in found.points) == sorted(p.run_id for p in whole)
    assert found.points[-1] == whole[0]


def test_status_says_the_sum_first_and_filters(made, command):
    code, out, _ = command(status, made)
    first, *rest = out.splitlines()
    assert code == 0
    assert first.startswith("sweep made: 100 points, 92 done, 2 waiting, 1 interrupted, 1 killed")
    table = rest[rest.index("") + 1 :]
    assert table[0].split() == [
        "model", "done", "waiting", "interrupted", "killed", "failed", "damaged", "diverged", "all"
    ]  # fmt: skip
    assert [int(line.split()[-1]) for line in table[1:5]] == [25] * 4
    assert sum(line.startswith("done ") for line in rest) == 92
    _, out, _ = command(status, made, "--state", "failed,killed")
    points = out.rpartition("\n\n")[2].splitlines()[1:]
    assert [line.split()[0] for line in points] == ["killed", "failed"]
    _, out, _ = command(status, made, "--json", "--state", "damaged")
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["damaged"] * 2


def test_on_a_terminal_what_needs_no_attention_is_left_out(made, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    text = status.status_text("made", read_sweep(made), (), shorten=True)
    assert "94 points that are done or waiting are not shown; --all shows them" in text
    points = text.split("\n\n")[2].splitlines()[1:]
    assert {line.split()[0] for line in points} == {
        "interrupted", "killed", "failed", "damaged", "diverged"
    }  # fmt: skip
    assert len(status.status_text("made", read_sweep(made), (), shorten=False).splitlines()) > 100


def test_bad_options_are_one_line(made, command):
    for arguments, words in (
        (("--every", 0), "--every 0 must be above 0 seconds"),
        (("--every", "nan"), "--every nan must be above 0 seconds"),
        (("--state", "broken"), "--state 'broken' is not one of done, running"),
        (("--state", ""), "--state '' is not one of done, running"),
    ):
        code, _, err = command(status, made, *arguments)
        assert code == 2
        assert err.startswith(f"error: {words}")


def test_without_a_name_status_lists_the_sweeps(made, command, tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "a").symlink_to(made)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "manifest.jsonl").touch()
    (tmp_path / "other").mkdir()
    code, out, _ = command(status, "--results", tmp_path)
    _, a, torn = out.splitlines()
    assert code == 0
    assert a.split()[:3] == ["group/a", "100", "92"]
    assert "1 failed, 2 damaged" in a
    assert "manifest.jsonl has no points: it is empty" in torn
    code, _, err = command(status, "nope", "--results", tmp_path)
    assert (code, err) == (2, f"error: no sweep 'nope' in {tmp_path}; it has group/a, torn\n")
    code, _, err = command(status, "--results", tmp_path / "other")
    assert (code, err) == (
        2, f"error: no sweep in {tmp_path / 'other'}; --results names another folder\n"
    )  # fmt: skip


def test_a_name_that_begins_with_a_dash_goes_behind_two(made, command, tmp_path):
    (tmp_path / "-x").symlink_to(made)
    code, out, _ = command(status, "--results", tmp_path, "--", "-x")
    assert (code, out.partition(":")[0]) == (0, "sweep -x")
    code, out, _ = command(status, "--help")
    assert "put -- before one that begins with a dash" in " ".join(out.split())


def test_collect_leaves_damaged_records_out_and_names_them(made, capsys):
    rows = collect.collect_rows(made)
    assert len(rows) == 94
    error = capsys.readouterr().err
    assert error.startswith("warning: 2 damaged records are left out:\n")
    assert error.count("record.json is damaged (") == 2


def test_collect_of_damaged_records_alone_is_refused(run):
    (run / "record.json").write_text("{")
    with pytest.raises(ValueError, match="has no record that can be read"):
        collect.collect_rows(run.parent)


def test_a_point_with_a_damaged_record_is_to_be_run(compose_raw, tmp_path):
    raw = compose_raw("size=1", "budget=1e9", *TINY, f"paths.results={tmp_path}")
    points = [make_point(raw), make_point({**raw, "seed": 1})]
    points[0].run_dir.mkdir(parents=True)
    (points[0].run_dir / "record.json").write_text("{")
    assert list(choose(points).run) == points
    left = choose([make_point({**p.raw, "retry": "none"}) for p in points]).run
    assert [p.run_id for p in left] == [p.run_id for p in points]


@pytest.mark.parametrize(
    "code",
    [
        "status.main()",
        "cancel.main()",
        "collect.collect_rows(__import__('pathlib').Path({made!r}))",
    ],
    ids=["status", "cancel", "collect"],
)
def test_what_needs_no_torch_has_none(made, code):
    heavy = ("torch", "lightning", "hydra", "omegaconf", "pandas", "numpy", "wandb", "tqdm")
    name = code.partition(".")[0]
    lines = (
        "import sys; from pathlib import Path",
        f"sys.argv = ['x', {str(made)!r}]; from experiments import {name}",
        code.format(made=str(made)),
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)",
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(cancel.__file__).parents[1])}
    done = python("-c", "\n".join(lines), env=environment)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_running_run_is_at_its_step_and_says_how_long_it_takes(run):
    row = {"step": 4, "n_tokens": 4 * 128, "tokens_per_second": 128.0, "updated": 9e9}
    (run / "progress.json").write_text(json.dumps(row))
    with claimed(run):
        whole = read_sweep(run.parent)
    assert whole.points[0].seconds_left == pytest.approx(10 - 4)
    table = status_text("s", whole, (), shorten=False)
    assert "sweep s: 1 points, 1 running" in table
    assert "4/10" in table


@pytest.mark.parametrize("module", [status, cancel, retry, collect], ids=lambda m: m.__name__)
def test_the_commands_name_what_they_cannot_find(tmp_path, command, module):
    code, _, err = command(module, "nope", "--results", tmp_path)
    assert (code, err) == (2, f"error: no sweep 'nope' in {tmp_path}; it has none\n")
