"""`retry --run`: single points, by their ids or the start of them."""

import pytest

from experiments import retry
from experiments.sweep import manifest, many_runs
from experiments.sweep.manifest import Entry


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "s"
    entries = [
        Entry(run_id=run_id, label="dense", planned_flops=1.0, n_steps=1, code=None, config="{}")
        for run_id in ("abc123", "abd456", "ab")
    ]
    manifest.add(folder, entries)
    return folder


def test_runs_are_named_by_the_start_of_their_ids(sweep):
    assert retry.runs_named(sweep, ["abc", "ab"]) == {"abc123", "ab"}  # a whole id is no start


@pytest.mark.parametrize(
    ("name", "what"), [("x", "is not a run of"), ("a", "names 3 runs of"), ("", "names 3 runs of")]
)
def test_what_names_no_single_run_is_an_error(sweep, command, name, what):
    code, _, err = command(retry, sweep, "--run", name)
    assert code == 2
    assert err.startswith(f"error: --run {name!r} {what} {sweep}, and must name one; ")
    assert err.count("\n") == 1


def test_it_is_the_only_one_that_runs(sweep, command, monkeypatch):
    asked = []

    def raws_of(app, folder, run_ids):
        return [{"run": run_id} for run_id in sorted(run_ids)], 0

    monkeypatch.setattr("experiments.sweep.restore.read_raws", raws_of)
    monkeypatch.setattr(many_runs, "run_sweep", lambda raws, *_, **__: asked.extend(raws))
    command(retry, sweep, "--run", "abc", "--run", "abd")
    assert [raw["run"] for raw in asked] == ["abc123", "abd456"]
