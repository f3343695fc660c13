"""Each tracker of conf/logger: a run that was killed and goes on is one curve, no step twice.

A tracker that is added is found by its yaml, and brings a reader to READERS, by its package's own.
"""

import json
import os
import runpy
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import REPOSITORY, TINY

TRACKERS = sorted(path.stem for path in (REPOSITORY / "conf/logger").glob("*.yaml"))
OWNERS = sorted((REPOSITORY / "src/experiments/training/trackers/owners").glob("*_owner.py"))

# The command, which ends itself by a signal right after the row of a step.
COMMAND = """
import os
from experiments.training.history import History
plain = History.after_step
def after_step(self, step):
    plain(self, step)
    if step == int(os.environ["AT"]):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
History.after_step = after_step
from experiments.run import main
main()
"""
# Before any checkpoint; twice past that of step 11 (.3 of 37 steps); asked to stop; past that.
ENDS = (
    (signal.SIGKILL, 8), (signal.SIGKILL, 18), (signal.SIGKILL, 16), (signal.SIGTERM, 20),
    (signal.SIGKILL, 28), (signal.SIGKILL, 0),
)  # fmt: skip


def of_csv(run_dir, top):
    table = pd.read_csv(run_dir / "history.csv")
    return list(zip(table["n_tokens"], table["loss"], strict=True))


def of_wandb(run_dir, top):
    """By `wandb leet inspect`, or in versions without it, by the tests' own reader."""
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        from tests.wandb_file import read_wandb

        rows = read_wandb(path).history
    else:
        records = map(json.loads, done.stdout.splitlines())
        rows = [one["history"]["item"] for one in records if one["type"] == "history"]
    assert all(row["_step"] == row["step"] for row in rows)
    return [(row["n_tokens"], row["loss"]) for row in rows]


def of_tensorboard(run_dir, top):
    """By EventAccumulator, and as whoever reads the files without dropping anything sees it."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    curve = [(one.step, one.value) for one in found.Scalars("loss")]
    files = sorted((run_dir / "tensorboard").iterdir())
    events = [event for path in files for event in LegacyEventFileLoader(str(path)).Load()]
    plain = [event.step for event in events for v in event.summary.value if v.tag == "loss"]
    assert plain == [step for step, _ in curve]
    return curve


def of_trackio(run_dir, top):
    pytest.importorskip("trackio")
    code = (
        "import sys, json; from trackio.sqlite_storage import SQLiteStorage as S;"
        "assert S.get_runs('experiments') == [sys.argv[1]];"
        "found = S.get_logs('experiments', sys.argv[1]);"
        "print(json.dumps([(row['step'], row['loss']) for row in found if 'loss' in row]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run_dir.name],
        env=os.environ | {"TRACKIO_DIR": str(top / "trackio")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [tuple(row) for row in json.loads(done.stdout.splitlines()[-1])]


READERS = {
    "csv": of_csv, "wandb": of_wandb, "tensorboard": of_tensorboard, "trackio": of_trackio,
}  # fmt: skip


def train(top, logger, ends):
    """Runs the same command to each of these ends; the run's folder."""
    words = (
        "model=dense", "size=2", "budget=1e9", *(w for w in TINY if not w.startswith("logger")),
        f"logger={logger}", "logger.log_every_n_steps=2", "trainer.checkpoint_minutes=1000",
        "trainer.keep_at=[0.3]", f"paths.results={top}", f"paths.cache={top}/cache", "sweep=s",
    )  # fmt: skip
    own = {"TRACKIO_DIR": str(top / "trackio"), "WANDB_MODE": "offline"}
    own["PYTHONPATH"] = f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"
    for number, step in ends:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *words], cwd=top, capture_output=True, text=True,
            env=os.environ | own | {"AT": str(step), "SIGNAL": str(int(number))}, check=False,
        )  # fmt: skip
        expected = 0 if not step else -9 if number == signal.SIGKILL else 130
        assert done.returncode == expected, done.stderr
        assert "logging stopped" not in done.stderr
    (record,) = (top / "s").glob("*/record.json")
    return record.parent


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Tokens and losses of a run that nothing disturbed."""
    top = tmp_path_factory.mktemp("undisturbed")
    return of_csv(train(top, "csv", ENDS[-1:]), top)


def test_each_tracker_has_a_reader_here():
    assert sorted(READERS) == TRACKERS


@pytest.mark.parametrize("path", OWNERS, ids=lambda path: path.stem)
def test_each_owner_can_begin_anew(path):
    owner = runpy.run_path(str(path))["Owner"]
    assert not {"init", "begin", "log", "finish"} - set(dir(owner))


@pytest.mark.parametrize("logger", TRACKERS)
def test_a_run_that_was_killed_and_goes_on_is_one_curve(tmp_path, expected, logger):
    run_dir = train(tmp_path, logger, ENDS)
    found = READERS[logger](run_dir, tmp_path)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-6)
    assert [loss for _, loss in of_csv(run_dir, tmp_path)] == [loss for _, loss in expected]
