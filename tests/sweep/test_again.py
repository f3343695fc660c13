"""A sweep that is done is known from its manifest, and all else is planned."""

import copy
from types import SimpleNamespace

import pytest

from experiments.benchmarks.core.made_sweep import make_sweep
from experiments.records.files import RECORD_NAME
from experiments.sweep import again, manifest
from experiments.sweep.again import find_done, run_again
from experiments.system.claims import claimed

DONE = range(12, 16)  # of make_sweep's points


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep's folder, and configs of four points of it that are done."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("again")
        patch.setenv("EXPERIMENTS_CACHE", str(folder / "cache"))
        sweep = folder / "results" / "made"
        make_sweep(sweep, DONE.stop)
    entries = list(manifest.load(sweep).entries.values())
    return sweep, [entries[n].raw for n in DONE]


@pytest.fixture
def made(whole, monkeypatch):
    """As `whole`, where the code of the manifest is the one that runs; the configs are copies."""
    monkeypatch.setattr(again.code_copy, "find_name", lambda digest: "0" * 12)
    sweep, raws = whole
    return sweep, copy.deepcopy(raws)


def test_done_points_are_known_in_their_order(made, capsys):
    sweep, raws = made
    ids = [id for id, entry in manifest.load(sweep).entries.items() if entry.raw in raws]
    assert find_done(raws) == [sweep / id for id in ids]
    assert find_done(raws[::-1]) == [sweep / id for id in ids[::-1]]
    losses = run_again(raws, SimpleNamespace(stays=True))
    assert len(losses) == 4
    assert all(1 < loss < 10 for loss in losses)
    assert capsys.readouterr().out == "sweep made: 4 of 4 runs are done already\n"
    assert run_again(raws, SimpleNamespace(stays=False)) == []
    assert "status: python -m experiments.status made --results" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 9},
        {"dry_run": True},
        {"sweep": "other"},
        {"retry": "none"},  # another config than the manifest's
        {"init": {"how": "grow"}},
        {"parts": {"mine": {"_target_": "experiments.x.Y"}}},
    ],
)
def test_another_config_is_planned(made, change):
    _, raws = made
    raws[2] |= change
    assert find_done(raws) is None


@pytest.mark.parametrize(
    ("group", "change"),
    [
        ("data", {"note": "texts/mine.txt"}),  # whose content decides
        ("data", {"note": "*.txt"}),
        ("data", {"corpus": {"_target_": "mine.Corpus"}}),  # whose code is no part of the copy
        ("optim", {"branch_from": "trunk"}),
        ("optim", {"schedule": "trunk"}),
    ],
)
def test_what_depends_on_more_than_config_and_code_is_planned(made, group, change):
    """Though the manifest has it, to the byte."""
    sweep, raws = made
    raws[0][group] |= change
    entries = manifest.load(sweep).entries.values()
    known = next(entry for entry in entries if entry.raw == raws[1])
    config = again.json.dumps(raws[0])
    fields = {**vars(known), "config": config, "line": None}
    manifest.add(sweep, [manifest.Entry(**fields)])
    try:
        assert find_done(raws[:1]) is None
    finally:
        manifest.add(sweep, [known])


def test_a_file_of_a_values_name_may_be_one(made, tmp_path, monkeypatch):
    _, raws = made
    monkeypatch.chdir(tmp_path)
    assert find_done(raws)
    (tmp_path / raws[0]["logger"]["project"]).touch()
    assert find_done(raws) is None


def test_the_same_point_twice_is_for_the_plan_to_refuse(made):
    _, raws = made
    assert find_done([*raws, raws[0]]) is None
    assert find_done([]) is None


def test_other_code_may_give_other_ids(whole):
    assert find_done(whole[1]) is None


def test_a_run_that_is_held_or_not_over_is_for_the_plan(made, monkeypatch):
    _, raws = made
    folder = find_done(raws)[0]
    with claimed(folder):
        assert find_done(raws) is None
    monkeypatch.setattr(again, "read_tasks", lambda sweep_dir: {folder.name: None})
    assert find_done(raws) is None
    monkeypatch.undo()
    monkeypatch.setattr(again.code_copy, "find_name", lambda digest: "0" * 12)
    record = folder / RECORD_NAME
    text = record.read_bytes()
    for damaged in (text[:-9], text.replace(b'"done"', b'"failed"')):
        record.write_bytes(damaged)
        assert find_done(raws) is None
    record.unlink()
    assert find_done(raws) is None
    record.write_bytes(text)
    assert find_done(raws)


def test_a_damaged_line_is_for_the_plan_to_tell(made):
    sweep, raws = made
    path = sweep / manifest.MANIFEST_NAME
    text = path.read_bytes()
    path.write_bytes(text + b"{torn")
    assert find_done(raws) is None
    path.write_bytes(text)
    assert find_done(raws)
