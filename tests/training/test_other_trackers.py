"""TensorBoard's files and trackio's database are read back by their own packages."""

import json
import subprocess
import sys
import warnings

import pytest

from experiments.records.files import read_record
from experiments.training.execute import execute
from experiments.training.trackers.tensorboard import TensorBoard
from experiments.training.trackers.tracker import TrackedRun
from experiments.training.trackers.trackio import Trackio
from tests.extending import follow

ROWS = [{"n_tokens": 100 * step, "loss": 7.0 - step} for step in range(3)]
SUMMARY = {"status": "done", "n_tokens": 200, "val_loss": 4.5, "error": None}


def run_in(folder):
    return TrackedRun(run_id="abc", sweep="s", model="peer", folder=folder, config={"size": 2})


def curve(folder, tag):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return [(one.step, one.value) for one in found.Scalars(tag)]


@pytest.fixture
def trackio(tmp_path, monkeypatch):
    """ask("get", "run", ...): what trackio's own command answers of a folder of this test's."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    code = "import sys; from trackio.cli import main; sys.exit(main())"

    def ask(*words):
        command = [sys.executable, "-c", code, *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return ask


@pytest.mark.slow
def test_tensorboard_reads_rows_config_and_losses(tmp_path):
    tracker = TensorBoard().start(run_in(tmp_path))
    for row in ROWS:
        tracker.log(row)
    tracker.finish(SUMMARY)
    assert curve(tmp_path, "loss") == [(0, 7.0), (100, 6.0), (200, 5.0)]
    assert curve(tmp_path, "record/val_loss") == [(200, 4.5)]


@pytest.mark.slow
def test_trackio_reads_rows_config_and_group(tmp_path, trackio):
    for before in ([], ROWS[:1]):  # the second goes on from a checkpoint
        tracker = Trackio(project="p").start(run_in(tmp_path))
        tracker.begin(before)
        for row in ROWS[len(before) :]:
            tracker.log(row)
        tracker.finish({"status": "done"})
    assert trackio("list", "runs", "--project", "p")["runs"] == ["abc"]
    found = trackio("get", "run", "--project", "p", "--run", "abc")
    assert found["config"]["size"] == 2
    found = trackio("get", "metric", "--project", "p", "--run", "abc", "--metric", "loss")
    assert [(one["step"], one["value"]) for one in found["values"]] == [
        (0, 7.0), (100, 6.0), (200, 5.0)
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_is_shown_by_several(make, tmp_path, trackio):
    point = make("logger=[tensorboard,trackio]", "logger.log_every_n_steps=1")
    record = execute(point, lambda row: None)
    assert record.status == "done", record.error
    assert read_record(point.run_dir / "record.json") == record
    losses = curve(point.run_dir, "loss")
    assert len(losses) == record.n_steps
    run = ("--project", "experiments", "--run", point.run_id)
    found = trackio("get", "metric", *run, "--metric", "loss")["values"]
    assert [one["value"] for one in found][:3] == pytest.approx([v for _, v in losses][:3])
    assert curve(point.run_dir, "record/val_loss")[0][1] == pytest.approx(record.val_loss)


@pytest.mark.slow
def test_a_tracker_that_fails_is_left_alone(tmp_path):
    (tmp_path / "tensorboard").write_text("")  # a folder can't be made where a file is
    tracker = TensorBoard().start(run_in(tmp_path))
    with pytest.warns(UserWarning, match="TensorBoard logging stopped: .*Error.*; training goes"):
        tracker.finish(SUMMARY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracker.log(ROWS[0])


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_said_by_the_plan(make, monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    with pytest.raises(ValueError, match=rf"logger={name} needs the package {name}.*pip install"):
        make(f"logger={name}")


def test_loggers_leave_no_mark_on_a_runs_id(make):
    found = {make(f"logger={one}").run_id for one in ("csv", "wandb", "tensorboard", "trackio")}
    assert len({*found, make("logger=[wandb,tensorboard]").run_id}) == 1
    assert make("logger=[tensorboard,wandb]").config.logger.wandb == "auto"
    assert make("logger=[tensorboard,csv]").config.logger.wandb == "disabled"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("logger.tools=3", "logger.tools=3 must be a group of keys"),
        ("+logger.tools.mine._target_=os.system", "logger.tools.mine"),
        ("logger.tools.trackio.project=a/b", "project='a/b' must be 1 to 128 characters"),
    ],
)
def test_bad_loggers_are_refused(make, override, said):
    with pytest.raises(ValueError, match=said):
        make("logger=trackio", override)


@pytest.mark.long
def test_the_how_to_of_a_tracker_runs_to_the_letter(tmp_path):
    printed = follow("A tracker", tmp_path)
    first, second = (json.loads(line) for line in printed.splitlines()[-2:])
    assert second["n_tokens"] > first["n_tokens"] > 0
    assert second["loss"] > 0
