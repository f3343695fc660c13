"""An app of one's own on the engine: examples/ridge, by its command and by those of all sweeps."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from examples.ridge.ridge import Ridge
from experiments import cancel, collect, retry, show, status
from experiments.records.app_record import AppRecord
from experiments.records.files import DamagedError, read_any_record, read_outcome, read_record
from experiments.sweep import app as apps
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.own_app import ENGINE
from experiments.sweep.planning import plan_points
from experiments.sweep.queues.local import Local
from experiments.sweep.queues.workers import Workers
from experiments.sweep.states import read_states, read_sweep
from experiments.sweep.working import Worker
from experiments.system.claims import read_events
from tests.conftest import REPOSITORY
from tests.sweep.conftest import RIDGE

SCRIPT = REPOSITORY / "examples" / "ridge" / "ridge.py"


pytestmark = pytest.mark.usefixtures("ridge_app")


@pytest.fixture
def sweep(ridge_raw, tmp_path):
    """Two points, done."""
    run_sweep([ridge_raw(degree=3), ridge_raw(degree=5)], Local(n_workers=2), place=RIDGE)
    return tmp_path / "results" / "s"


def ridge(folder, *words, **options):
    command = [sys.executable, str(SCRIPT), *words, f"paths.results={folder / 'results'}"]
    environment = {**os.environ, "CI": "true"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, **options,
    )  # fmt: skip


def test_an_id_is_of_what_can_change_the_result_alone(ridge_raw):
    def run_id(**given):
        (point,) = plan_points([ridge_raw(**given)], place=RIDGE)
        return point.run_id

    first = run_id()
    assert run_id(sweep="t", retry="all", pause=1.0, max_retries=0) == first
    assert len({first, run_id(degree=4), run_id(seed=1), run_id(penalty=0.0)}) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"degree": 99}, "degree=99 must be from 1 to 30"),
        ({"sweep": "../x"}, "sweep='../x' must be a name"),
        ({"retry": "maybe"}, "retry='maybe'"),
        ({"paths": {"results": "r", "cache": "c"}}, "paths has results, cache, and must have"),
        ({"token": "hf_" + "a" * 30}, "token"),
        ({"n_steps": 0}, "n_steps=0 must be at least 1"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_written(ridge_raw, given, said, tmp_path):
    with pytest.raises(ValueError, match=re.escape(said)):
        run_sweep([ridge_raw(), ridge_raw(seed=1, **given)], Local(), place=RIDGE)
    assert not (tmp_path / "results").exists()


def test_two_points_that_are_one_run_are_refused(ridge_raw):
    with pytest.raises(ValueError, match="two points of the sweep are one run"):
        plan_points([ridge_raw(), ridge_raw(pause=0.5)], place=RIDGE)


def test_a_config_without_the_engine_s_keys_says_where_they_come_from(ridge_raw):
    given = ridge_raw()
    del given["retry"]
    with pytest.raises(ValueError, match="retry is not in the config; begin its primary yaml"):
        plan_points([given], place=RIDGE)


def test_an_app_whose_config_has_changed_meanwhile_says_so(
    ridge_raw, tmp_path, command, monkeypatch
):
    """Its stored points lack a key that it reads now, or are other runs by now."""
    run_sweep([ridge_raw()], Workers(), place=RIDGE)
    sweep = tmp_path / "results" / "s"
    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "check", lambda self, config: config["depth"])
        code, _, err = command(retry, sweep)
        assert (code, err.count("\n")) == (2, 1)
        assert "'depth' is not in the config, and ridge:Ridge reads it" in err
    monkeypatch.setattr(Ridge, "identity", lambda self, config: {"degree": config["degree"] + 1})
    code, _, err = command(retry, sweep)
    assert code == 2
    assert "is that of" in err
    monkeypatch.setattr(Ridge, "identity", lambda self, config: {"degree": {1, 2}})
    with pytest.raises(ValueError, match="identity has what no JSON is"):
        plan_points([ridge_raw()], place=RIDGE)


def test_a_run_has_a_record_and_a_history_and_is_not_repeated(ridge_raw, tmp_path, capsys):
    """Its loss is that of the same descent, written out."""
    value = run_one(ridge_raw(), place=RIDGE)
    (path,) = (tmp_path / "results" / "s").glob("*/record.json")
    record = read_any_record(path)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 40)
    y = np.sin(3 * x) + 0.1 * rng.normal(size=40)
    a = np.polynomial.legendre.legvander(x, 3)
    w = np.zeros(4)
    for _ in range(50):
        w = w - 0.2 * (a[:20].T @ (a[:20] @ w - y[:20]) / 20 + 1e-3 * w)
    loss = np.mean((a[20:] @ w - y[20:]) ** 2)
    assert isinstance(record, AppRecord)
    assert (record.status, record.n_steps, record.app, record.unit) == ("done", 50, RIDGE, "steps")
    assert record.values["loss"] == record.loss == value == pytest.approx(loss, rel=1e-12)
    assert not record.config.keys() & ENGINE.keys()
    rows = (path.parent / "history.csv").read_text().splitlines()
    assert rows[0] == "step,loss"
    assert rows[-1].startswith("50,")
    assert read_outcome(path).loss == record.loss
    capsys.readouterr()
    run_one(ridge_raw(), place=RIDGE)
    assert "done before" in capsys.readouterr().out
    assert [event["event"] for event in read_events(path.parent)] == ["started", "done"]


@pytest.mark.long
def test_readers_of_language_models_say_what_it_is(sweep, command):
    path = next(sweep.glob("*/record.json"))
    with pytest.raises(ValueError, match="is of ridge:Ridge, which trains no language model"):
        read_record(path)
    code, _, err = command(show, path.parent)
    assert code == 2
    assert "trains no language model" in err


@pytest.mark.long
def test_a_damaged_record_is_found(sweep):
    path = next(sweep.glob("*/record.json"))
    path.write_text(path.read_text().replace('"done"', '"failed"'))
    with pytest.raises(DamagedError, match="checksum"):
        read_any_record(path)


def test_status_and_collect_read_it_without_its_code(sweep, command):
    (sweep / "app.json").unlink()
    apps._known.pop(RIDGE)
    code, out, _ = command(status, sweep)
    assert code == 0
    assert out.startswith("sweep s: 2 points, 2 done; 100 of 100 steps\n")
    page = sweep.parent / "page.html"
    assert command(status, sweep, "--html", page)[0] == 0
    text = page.read_text()
    assert "of 100 steps done" in text
    assert ">value<" in text
    assert "Loss against size" not in text
    code, _, _ = command(collect, sweep)
    assert code == 0
    head, *rows = (sweep / "records.csv").read_text().splitlines()
    assert {"run_id", "status", "degree", "seed", "loss", "size"} <= {*head.split(",")}
    assert len(rows) == 2
    (sweep / "manifest.jsonl").unlink()  # by their folders
    found = read_sweep(sweep)
    assert {p.label for p in found.points} == {"ridge degree=3 seed=0", "ridge degree=5 seed=0"}
    assert found.unit == "steps"


@pytest.mark.long
def test_a_moved_sweep_is_retried_where_it_is(sweep, command):
    """By the file that its folder names, which this user has signed."""
    removed = next(sweep.glob("*/record.json"))
    removed.unlink()
    moved = sweep.rename(sweep.with_name("elsewhere"))
    apps._known.pop(RIDGE)
    code, _, err = command(retry, moved)
    assert (code, err) == (0, "")
    assert {point.state for point in read_states(moved)} == {"done"}
    assert not sweep.exists()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"name": "mine:Mine"}, "has runs of mine:Mine of "),
        ({"file": "there.py"}, "has runs of ridge:Ridge of there.py"),
        ({"file": "gone.py"}, None),  # it was moved
        ({"file": "copy.py"}, None),
        ({"name": 3, "x": 4}, None),  # is written again
        ({}, None),
        (None, "has runs of language models"),
    ],
)
def test_a_sweep_has_the_runs_of_one_app(ridge_raw, tmp_path, monkeypatch, other, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("")
    (tmp_path / "copy.py").write_bytes(SCRIPT.read_bytes())
    sweep = tmp_path / "results" / "s"
    apps.note_app(sweep, RIDGE)
    with pytest.raises(ValueError, match="has runs of ridge:Ridge"):
        apps.check_owner(sweep, apps.FIRST)
    (sweep / "manifest.jsonl").touch()
    path = sweep / "app.json"
    was = path.read_text()
    if other is None:
        path.unlink()
    else:
        path.write_text(json.dumps({**json.loads(was), **other}))
    if said is None:
        plan_points([ridge_raw()], place=RIDGE)
        apps.note_app(sweep, RIDGE)
        assert path.read_text() == was
    else:
        for ask in (
            lambda: plan_points([ridge_raw()], place=RIDGE),
            lambda: apps.note_app(sweep, RIDGE),
        ):
            with pytest.raises(ValueError, match=said):
                ask()


@pytest.mark.parametrize("changed", [{"name": 7}, {"file": [1]}])
def test_an_app_whose_file_names_it_by_no_text(ridge_raw, tmp_path, changed):
    sweep = tmp_path / "results" / "s"
    apps.note_app(sweep, RIDGE)
    path = sweep / "app.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    (key, value) = next(iter(changed.items()))
    with pytest.raises(ValueError, match=re.escape(f"is damaged ({key}={value!r} is no text)")):
        apps.app_of_sweep(sweep)


@pytest.mark.long
def test_an_app_that_a_stranger_names_is_not_imported(sweep, command, tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "ridge.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    next(sweep.glob("*/record.json")).unlink()
    path = sweep / "app.json"
    given = json.loads(path.read_text())
    apps._known.pop(RIDGE)
    path.write_text(json.dumps({**given, "file": str(evil / "ridge.py")}))
    code, _, err = command(retry, sweep)
    assert code == 2
    assert "is not signed by you" in err
    path.write_text(json.dumps({**given, "name": "os:system"}))
    assert command(retry, sweep)[0] == 2
    path.write_text("{")
    assert "is damaged" in command(retry, sweep)[2]
    assert not (tmp_path / "ran").exists()
    path.write_text(json.dumps(given))
    assert command(retry, sweep)[0] == 0


@pytest.mark.long
def test_an_edit_does_not_reach_points_that_wait(ridge_raw, tmp_path):
    """A copy of the app's file is in the sweep's folder, and is what runs."""
    run_sweep([ridge_raw()], Local(n_workers=1), place=RIDGE)
    (copy,) = (tmp_path / "results" / "s" / ".code").glob("[!.]*")
    assert (copy / "app" / "ridge.py").read_bytes() == SCRIPT.read_bytes()


@pytest.mark.parametrize("source", ["../conftest.py", "data.bin", "missing.py"])
def test_sources_are_files_beside_the_app(monkeypatch, source):
    monkeypatch.setattr(Ridge, "sources", (source,))
    with pytest.raises(ValueError, match="sources: "):
        Ridge().files()


def test_workers_share_its_points(ridge_raw, tmp_path):
    run_sweep([ridge_raw(degree=d) for d in (3, 4, 5)], Workers(), place=RIDGE)
    sweep = tmp_path / "results" / "s"
    assert Worker(sweep, most=1).work() == 0
    assert [point.state for point in read_states(sweep)].count("done") == 1
    assert Worker(sweep).work() == 0
    assert {point.state for point in read_states(sweep)} == {"done"}


def test_ten_thousand_points_are_planned_in_ten_seconds(ridge_raw):
    """Seconds of CPU time, beside a processor that may be half as fast as one where it took 2 s."""
    raws = [ridge_raw(degree=1 + k % 30, seed=k // 30) for k in range(10_000)]
    start = time.process_time()
    points = plan_points(raws, place=RIDGE)
    assert time.process_time() - start < 10
    assert len({point.run_id for point in points}) == 10_000


def test_a_killed_sweep_goes_on_from_its_checkpoints(tmp_path):
    """kill -9 of all its processes; then its own command again."""
    words = ("-m", "degree=3,5", "pause=0.005", "n_steps=800", "sweep=k")
    killed = ridge(tmp_path, *words, start_new_session=True)
    sweep = tmp_path / "results" / "k"
    _until(lambda: len([*sweep.glob("*/last.ckpt")]) == 2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    _until(lambda: {point.state for point in read_states(sweep)} == {"killed"})
    saved = [json.loads(p.read_bytes().partition(b"\n")[0])["step"] for p in _sorted(sweep)]
    again = ridge(tmp_path, *words)
    out, _ = again.communicate(timeout=60)
    assert again.returncode == 0, out
    assert {point.state for point in read_states(sweep)} == {"done"}
    for path, step in zip(_sorted(sweep, "history.csv"), saved, strict=True):
        steps = [int(row.partition(",")[0]) for row in path.read_text().splitlines()[1:]]
        assert steps == sorted(set(steps))
        assert step > 0
        assert steps[-1] == 800
    whole = ridge(tmp_path, "-m", "degree=3,5", "n_steps=800", "sweep=whole")
    assert whole.communicate(timeout=60)
    for path in _sorted(sweep, "record.json"):
        other = tmp_path / "results" / "whole" / path.parent.name / "record.json"
        assert read_any_record(path).values == read_any_record(other).values


def test_a_cancelled_sweep_has_saved(tmp_path, command):
    running = ridge(tmp_path, "-m", "degree=3,5", "pause=0.005", "n_steps=4000", "sweep=c")
    sweep = tmp_path / "results" / "c"
    _until(lambda: len([*sweep.glob("*/history.csv")]) == 2)
    code, out, _ = command(cancel, sweep)
    assert code == 0
    assert out.startswith("1 local sweeps were asked to end")
    running.communicate(timeout=30)
    assert running.returncode == 130
    assert {point.state for point in read_states(sweep)} == {"interrupted"}
    assert len(_sorted(sweep)) == 2


def test_its_command_plans_searches_and_refuses(tmp_path):
    def said(*words):
        ended = ridge(tmp_path, *words)
        out, _ = ended.communicate(timeout=90)
        return ended.returncode, out

    code, out = said("-m", "degree=3,5", "seed=0,1", "dry_run=true")
    assert code == 0
    assert out.endswith("4 runs, 8e+03 steps\n")
    assert not (tmp_path / "results").exists()
    code, out = said("-m", "degree=3,99")
    assert (code, out) == (
        2,
        "error: degree=99 must be from 1 to 30 (ridge degree=99 seed=0)\n",
    )
    assert said("degre=3")[0] == 2
    code, out = said("-m", "degree=3,5", "n_steps=20", "hydra/sweeper=basic", "sweep=basic")
    assert (code, "2 runs" in out, [*tmp_path.glob("multirun.yaml")]) == (0, True, [])
    search = "hydra.sweeper.search={penalty: 'log(1e-5, 1)'}"
    code, out = said("-m", "degree=3", "sweep=q", search, "hydra.sweeper.n_trials=3", "n_steps=20")
    assert code == 0, out
    assert "search: lowest loss of penalty log(1e-5, 1)" in out
    assert len(_sorted(tmp_path / "results" / "q", "record.json")) == 3


def _sorted(sweep, name="last.ckpt"):
    return sorted(sweep.glob(f"*/{name}"))


def _until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.night
@pytest.mark.parametrize("seed", range(4))
def test_random_faults_lose_nothing_and_repeat_nothing(tmp_path, command, seed):
    """Kills of all processes or of one, cancel, a second controller and a moved folder, drawn; then
    each run is done once, in order, and its values are those of an undisturbed one.
    """
    rng = random.Random(seed)
    words = ("-m", "degree=3,5,7", "pause=0.003", "n_steps=600")
    name, faults = "f0", list[str]()
    for k in range(6):
        running = ridge(tmp_path, *words, f"sweep={name}", start_new_session=True)
        time.sleep(rng.uniform(1.0, 3.0))
        sweep, fault = tmp_path / "results" / name, rng.choice(["all", "one", "cancel", "second"])
        faults.append(fault)
        if fault == "cancel" and sweep.exists():
            command(cancel, sweep)
        elif fault == "second":
            ridge(tmp_path, *words, f"sweep={name}").communicate(timeout=60)
        elif fault == "one":
            with suppress(ProcessLookupError):
                os.kill(rng.choice([running.pid, *_children(running.pid)]), signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGTERM if rng.random() < 0.5 else signal.SIGKILL)
        running.communicate(timeout=60)
        _until(lambda at=sweep: not at.exists() or _none_runs(at))
        if k == 3 and sweep.exists():
            name = "f1"
            sweep.rename(tmp_path / "results" / name)
    ended = ridge(tmp_path, *words, f"sweep={name}")
    out, _ = ended.communicate(timeout=90)
    assert ended.returncode == 0, (faults, out)
    whole = ridge(tmp_path, "-m", "degree=3,5,7", "n_steps=600", "sweep=whole")
    assert whole.communicate(timeout=60)
    paths = _sorted(tmp_path / "results" / name, "record.json")
    assert len(paths) == 3
    for path in paths:
        other = tmp_path / "results" / "whole" / path.parent.name / "record.json"
        assert read_any_record(path).values == read_any_record(other).values, faults
        rows = (path.parent / "history.csv").read_text().splitlines()[1:]
        steps = [int(row.partition(",")[0]) for row in rows]
        assert steps == sorted(set(steps)), faults
        assert [e["event"] for e in read_events(path.parent)].count("done") == 1, faults


def _children(pid):
    text = subprocess.run(
        ["ps", "-eo", "pid,pgid"], capture_output=True, text=True, check=True
    ).stdout
    pairs = [line.split() for line in text.splitlines()[1:]]
    return [int(own) for own, group in pairs if int(group) == pid and int(own) != pid]


def _none_runs(sweep):
    try:
        return all(point.state != "running" for point in read_states(sweep))
    except ValueError:  # nothing of it is there yet
        return True
