"""Manifest: damaged lines are named, and results are where the manifest is."""

import fcntl
import hashlib
import json
import multiprocessing.forkserver
import random
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import retry
from experiments.language.app import APP
from experiments.language.places import located
from experiments.points.planning import make_point
from experiments.records.files import DamagedError
from experiments.sweep import lost, manifest, restore
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queues.local import Local
from experiments.system import claims
from experiments.system.claims import RunningElsewhereError


def lines_of(sweep):
    return (sweep / manifest.MANIFEST_NAME).read_bytes().splitlines()


def write_lines(sweep, lines):
    sweep.mkdir(parents=True, exist_ok=True)
    (sweep / manifest.MANIFEST_NAME).write_bytes(b"\n".join(lines) + b"\n")


def old_line(point, **changes):
    """A line as earlier versions wrote it, without a checksum."""
    values = {
        "run_id": point.run_id, "label": point.describe(),
        "planned_flops": point.plan.planned_flops, "n_steps": point.plan.n_steps,
        "raw": dict(point.raw), "code": None,
    }  # fmt: skip
    return json.dumps({**values, **changes}).encode()


def test_a_line_says_its_checksum(make, sweep):
    manifest.add(sweep, [manifest.make_entry(make(), "abc")])
    (line,) = lines_of(sweep)
    text, _, rest = line.rpartition(b', "checksum": "')
    assert rest == hashlib.sha256(text).hexdigest().encode() + b'"}'
    assert json.loads(line)["code"] == "abc"


def test_no_flipped_bit_is_another_point(make, sweep):
    """Whichever bit of a line flips, the line is damaged, and the other line is read."""
    a, b = make(), make("seed=1")
    manifest.add(sweep, [manifest.make_entry(a, None), manifest.make_entry(b, None)])
    first, second = lines_of(sweep)
    rng = random.Random(0)
    for at in [
        *range(90),
        *range(len(first) - 90, len(first)),
        *rng.sample(range(len(first)), 200),
    ]:
        flipped = bytearray(first)
        flipped[at] ^= 1 << rng.randrange(8)
        write_lines(sweep, [bytes(flipped), second])
        found = manifest.load(sweep)
        assert list(found.entries) == [b.run_id], flipped
        assert found.damaged


def test_old_lines_are_read(make, sweep):
    a = make()
    a.cache.mkdir()
    write_lines(sweep, [old_line(a)])
    (entry,) = manifest.read(sweep).values()
    assert (entry.run_id, entry.line, entry.model) == (a.run_id, 1, "dense")
    assert restore.read_raw(APP, sweep, entry) == a.raw


def test_an_old_line_with_another_config_is_not_run(make, sweep, capsys):
    a, b = make(), make("seed=1")
    write_lines(sweep, [old_line(a, raw={**a.raw, "seed": 8}), old_line(b)])
    entries = manifest.read(sweep)
    with pytest.raises(ValueError, match=rf"line 1: the config of run {a.run_id} is that of "):
        restore.read_raw(APP, sweep, entries[a.run_id])
    raws, n_refused = restore.read_raws(APP, sweep)
    assert ([raw["seed"] for raw in raws], n_refused) == ([1], 1)
    assert "manifest.jsonl, line 1: the config" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"n_steps": 0}, {"n_steps": "x"}, {"n_steps": 1.5}, {"n_steps": True},
        {"planned_flops": None}, {"planned_flops": -1}, {"planned_flops": float("nan")},
        {"run_id": "../x"}, {"run_id": 3}, {"label": None}, {"code": 7}, {"raw": []},
        {"schema": 99},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_a_damaged_line(make, sweep, changes):
    write_lines(sweep, [old_line(make(), **changes), old_line(make("seed=1"))])
    found = manifest.load(sweep)
    assert (len(found.entries), list(found.damaged)) == (1, [1])


@pytest.mark.parametrize("line", [b"null", b"[]", b"7", b"{}", b"[" * 100_000, b"\xd4\xff"])
def test_a_line_that_is_no_point_is_counted_and_named(make, sweep, line, capsys):
    write_lines(sweep, [old_line(make()), line])
    assert list(manifest.read(sweep)) == [make().run_id]
    error = capsys.readouterr().err
    assert "manifest.jsonl: 1 damaged line: 2 (" in error
    assert "the command that started the sweep writes lost points again" in error


def test_an_empty_manifest_and_a_folder_are_named(sweep):
    write_lines(sweep, [])
    with pytest.raises(ValueError, match=r"manifest.jsonl has no points: it is empty; the command"):
        manifest.read(sweep)
    (sweep / manifest.MANIFEST_NAME).unlink()
    (sweep / manifest.MANIFEST_NAME).mkdir()
    with pytest.raises(DamagedError, match=r"manifest.jsonl is damaged \(it is a folder\)"):
        manifest.read(sweep)


def test_the_sweep_itself_names_damaged_lines(make, sweep, capsys):
    write_lines(sweep, [b"torn"])
    manifest.adopt(sweep, [make()])
    assert "1 damaged line: 1 (cut short or garbled)" in capsys.readouterr().err
    assert list(manifest.load(sweep).entries) == [make().run_id]


def contents(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


@pytest.mark.night
def test_a_moved_or_copied_folder_works_where_it_is(make, sweep, tmp_path, monkeypatch, command):
    points = [make(), make("seed=1")]
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    run_sweep([p.raw for p in points], Local(n_workers=2))
    multiprocessing.forkserver._forkserver._stop()  # it has the code of the old place
    moved, copied = tmp_path / "there" / "renamed", tmp_path / "copy"
    moved.parent.mkdir()
    sweep.rename(moved)
    before = contents(moved)
    code, out, _ = command(retry, moved)
    assert (code, "sweep renamed: 2 of 2 runs are done already" in out) == (0, True)
    assert not sweep.exists()
    assert {p for p in contents(moved).items() if p[0].name == "record.json"} <= set(before.items())

    shutil.copytree(moved, copied)
    (copied / points[1].run_id / "record.json").unlink()
    before = contents(moved)
    assert command(retry, copied)[0] == 0
    assert (copied / points[1].run_id / "record.json").exists()
    assert contents(moved) == before
    assert not sweep.exists()


def test_relative_paths_are_of_the_sweeps_folder(make, tmp_path, monkeypatch):
    """Another working directory and another place: the same texts and cache beside it."""
    checkout = tmp_path / "checkout"
    (checkout / "texts").mkdir(parents=True)
    (checkout / "texts" / "a.txt").write_text("the cat sat on a mat\n" * 50)
    monkeypatch.chdir(checkout)
    raw = make("paths.results=results", "paths.cache=.cache", "sweep=group/s").raw
    corpus = {"_target_": "experiments.data.files.LocalText", "path": "texts"}
    point = make_point({**raw, "data": {**raw["data"], "path": "texts", "corpus": corpus}})
    sweep = checkout / "results" / "group" / "s"
    manifest.add(sweep, [manifest.make_entry(point, None)])
    (checkout / ".cache").mkdir()
    moved = tmp_path / "moved"
    checkout.rename(moved)
    (moved / "elsewhere").mkdir()
    monkeypatch.chdir(moved / "elsewhere")
    sweep = moved / "results" / "group" / "s"
    raw = restore.raw_of_run(APP, sweep, point.run_id)
    assert raw["paths"] == {"results": str(moved / "results"), "cache": str(moved / ".cache")}
    assert raw["data"]["path"] == raw["data"]["corpus"]["path"] == str(moved / "texts")
    assert raw["sweep"] == "group/s"
    assert make_point(raw).run_dir == sweep / point.run_id

    alone = sweep.rename(tmp_path / "other")  # without its group
    with pytest.raises(ValueError, match=r"line 1, run .*path='/.*texts' does not exist"):
        restore.raw_of_run(APP, alone, point.run_id)
    raw = located(manifest.read(alone)[point.run_id].raw, alone)
    assert (raw["sweep"], raw["paths"]["results"]) == ("other", str(tmp_path))


def test_a_cache_that_is_gone_is_todays(make, sweep, tmp_path, monkeypatch, capsys):
    manifest.add(sweep, [manifest.make_entry(make(), None)])
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "today"))
    raw = restore.raw_of_run(APP, sweep, make().run_id)
    assert raw["paths"]["cache"] == str(tmp_path / "today")
    assert f"the cache {tmp_path / 'cache'} is not there" in capsys.readouterr().err


def test_a_run_whose_line_is_lost_is_found_by_its_folder(make, sweep):
    """By its config.yaml alone, too; and can be run."""
    a, b = make("model=peer"), make("seed=1")
    manifest.add(sweep, [manifest.make_entry(a, None)])
    for point in (a, b):
        point.run_dir.mkdir(parents=True)
        text = OmegaConf.to_yaml(OmegaConf.create(dict(point.raw)))
        (point.run_dir / "config.yaml").write_text(text)
    (entry,) = lost.lost_entries(sweep, lost.list_folders(sweep) - {a.run_id})
    assert (entry.run_id, entry.label) == (b.run_id, b.describe())
    raws, n_refused = restore.read_raws(APP, sweep)
    assert [make_point(raw).run_id for raw in raws] == [a.run_id, b.run_id]
    assert n_refused == 0
    (same,) = lost.lost_entries(sweep, [a.run_id])
    assert same.label == a.describe()


def test_a_manifest_keeps_points_and_their_last_line_holds(make, sweep):
    a, b = make(), make("seed=1")
    manifest.add(sweep, [manifest.make_entry(a, "one"), manifest.make_entry(b, "one")])
    manifest.add(sweep, [manifest.make_entry(a, "two")])
    found = manifest.read(sweep)
    assert list(found) == [a.run_id, b.run_id]
    assert [e.code for e in found.values()] == ["two", "one"]
    assert make_point(found[b.run_id].raw).run_id == b.run_id
    assert Path(found[a.run_id].raw["paths"]["cache"]).is_absolute()


def test_a_line_cut_short_by_a_kill_costs_no_other(make, sweep):
    a, b = make(), make("seed=1")
    manifest.add(sweep, [manifest.make_entry(a, None)])
    path = sweep / manifest.MANIFEST_NAME
    path.write_text(path.read_text() + '{"run_id": "dead')
    manifest.add(sweep, [manifest.make_entry(b, None)])
    assert list(manifest.read(sweep)) == [a.run_id, b.run_id]


def test_what_is_no_sweep_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not a sweep: it has no manifest.jsonl"):
        manifest.read(tmp_path)


def test_controllers_that_see_no_common_lock_submit_one_after_the_other(monkeypatch, tmp_path):
    """On a file system that locks for each machine alone every lock is had at once."""
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    monkeypatch.setattr(manifest, "_POLL", 0.01)
    inside, together = [], []

    def submit():
        with manifest.submitting(tmp_path) as claim:
            inside.append(claim)
            together.append(len(inside))
            time.sleep(0.05)
            claim.check()
            inside.remove(claim)

    first = threading.Thread(target=submit)
    first.start()
    while not together:
        time.sleep(0.001)
    submit()
    first.join()
    assert together == [1, 1]


def test_of_two_that_came_at_once_without_a_lock_one_submits(monkeypatch, tmp_path):
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    monkeypatch.setattr(claims, "_wait_until_free", lambda folder: None)  # neither saw the other
    with manifest.submitting(tmp_path) as first, manifest.submitting(tmp_path) as second:
        second.check()
        with pytest.raises(RunningElsewhereError, match="whose locks both could have"):
            first.check()
