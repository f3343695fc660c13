"""A run that makes no step is ended, with a word of where it hangs; others are let be."""

import os
import signal
import subprocess
import sys
import time

from experiments.system.claims import read_events
from experiments.system.requeue import STALLED
from experiments.training.watchdog import Watchdog
from tests.conftest import REPOSITORY, TINY

HANGS = """
import sys, threading
from experiments.training.execute import execute
from experiments.points.planning import make_point
from experiments.training.module import LanguageModel
from hydra import compose
from experiments.config.composed import resolve
from experiments.config.hydra_version import composing

take_step = LanguageModel.take_step
def where_it_hangs(self, step, *more):
    if step == 20:
        threading.Event().wait()
    return take_step(self, step, *more)

LanguageModel.take_step = where_it_hangs
with composing():
    raw = resolve(compose("config", sys.argv[1:], return_hydra_config=True))
execute(make_point(raw), on_stall=lambda why: print("stalled:", why, flush=True))
"""


def child(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip


def test_a_step_that_hangs_ends_the_run(tmp_path):
    process = child(
        HANGS, "size=1", "budget=1e9", "sweep=s",
        "trainer.stall_minutes=0.02", *TINY,
        f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == STALLED, err
    why = "no step in 1 s (trainer.stall_minutes=0.02)"
    assert f"stalled: {why}" in out
    assert f"stalled: {why}; where every thread is:" in err
    assert "where_it_hangs" in err
    (run_dir,) = (tmp_path / "results" / "s").iterdir()
    assert [e["event"] for e in read_events(run_dir)] == ["started", "stalled"]
    assert read_events(run_dir)[-1]["why"] == why
    assert not (run_dir / "record.json").exists()


def test_it_counts_from_the_last_step_and_only_while_watching():
    watchdog = Watchdog(0.2 / 60, lambda why: None)  # it would end this process
    with watchdog.watching():
        for _ in range(10):
            time.sleep(0.04)
            watchdog.beat()
    time.sleep(0.4)  # evaluation


STOPPED = """
import time

import pytest
from experiments.training.watchdog import Watchdog
watchdog = Watchdog(1 / 60, lambda why: None)
with watchdog.watching():
    print("watching", flush=True)
    for _ in range(8):
        time.sleep(0.05)
        watchdog.beat()
"""


def test_a_process_that_was_stopped_has_not_stalled():
    process = child(STOPPED)
    process.stdout.readline()
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.3)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == 0
