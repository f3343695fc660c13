"""A child process that is told things: it answers, lags, fails, hangs, and is never waited for."""

import json
import os
import signal
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.training.guest import Guest

ANSWERS = """
    import json, sys
    heard = open(sys.argv[0] + ".heard", "a")
    for line in sys.stdin:
        heard.write(line)
        heard.flush()
        print(flush=True)
"""


@pytest.fixture
def guest(tmp_path):
    """guest("script"): the child, which does not outlive the test."""
    made = []

    def make(text):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        made.append(Guest(path, {"GIVEN": "x"}))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def tell(child, *messages):
    """Each; and it has answered them all."""
    for message in messages:
        child.tell(message)
    assert child.wait(30)


def heard(folder):
    lines = (folder / "script.py.heard").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_it_hears_all_in_order_and_ends_at_the_end_of_the_pipe(guest, tmp_path):
    child = guest(ANSWERS)
    messages = [{"i": i, "loss": float("inf")} for i in range(100)]
    tell(child, *messages)
    assert (child.error, child.silent_seconds()) == (None, 0.0)
    assert heard(tmp_path) == messages
    child.close(30)
    assert child._process.returncode == 0


def test_numbers_of_numpy_are_numbers_and_what_json_lacks_is_text(guest, tmp_path):
    child = guest(ANSWERS)
    tell(child, {"loss": np.float32(0.5), "n": np.int64(3), "path": Path("a")})
    assert heard(tmp_path) == [{"loss": 0.5, "n": 3, "path": "a"}]


def test_telling_one_that_is_stopped_waits_for_nothing_and_loses_nothing(guest, tmp_path):
    child = guest(ANSWERS)
    tell(child, {"i": 0})
    os.kill(child.pid, signal.SIGSTOP)
    start = time.monotonic()
    messages = [{"i": i, "text": "x" * 1000} for i in range(1, 1000)]  # a pipe holds 64
    for message in messages:
        child.tell(message)
    assert time.monotonic() - start < 10  # it is a second on a busy machine
    assert not child.wait(0.1)
    assert child.silent_seconds() > 0.1
    os.kill(child.pid, signal.SIGCONT)
    assert child.wait(30)
    assert heard(tmp_path) == [{"i": 0}, *messages]


def test_what_went_wrong_is_the_first_answer_with_words(guest):
    child = guest("import sys; input(); print(); input(); print('no room', flush=True)")
    tell(child, {}, {}, {})
    assert child.error == "no room"


@pytest.mark.parametrize(
    ("script", "code"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_one_that_ends_without_an_answer_says_how(guest, script, code):
    child = guest(script)
    for _ in range(3):
        time.sleep(0.2)
        tell(child, {"text": "x" * 100_000})
    assert child.error == f"its process ended with {code}"


def test_it_has_the_variables_and_not_the_folder_of_its_script(guest, tmp_path):
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')")
    child = guest("import json, os; input(); print(os.environ['GIVEN'])")
    tell(child, {})
    assert child.error == "x"


def test_what_ends_us_does_not_reach_it(guest, tmp_path):
    child = guest(ANSWERS)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(child.pid, number)
    tell(child, {"i": 1})
    assert (child.error, heard(tmp_path)) == (None, [{"i": 1}])
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # ours is as before


def test_kill_ends_what_hangs_below_it_too(guest):
    child = guest(
        """
        import subprocess, sys, time
        below = subprocess.Popen(["sleep", "600"], start_new_session=True)
        input()
        print(below.pid, flush=True)
        time.sleep(600)
        """
    )
    tell(child, {})
    below = int(child.error)
    child.kill()
    end = time.monotonic() + 10
    while Path(f"/proc/{below}").exists():
        state = Path(f"/proc/{below}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "ZX":
            break
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("end", [lambda child: child.kill(), lambda child: child.close(30)])
def test_its_temporary_files_go_with_it(guest, end):
    child = guest(
        """
        import tempfile
        file = tempfile.mkstemp()[1]
        input()
        print(file, flush=True)
        input()
        """
    )
    tell(child, {})
    left = Path(child.error)
    assert left.exists()
    end(child)
    assert not left.parent.exists()


def test_close_kills_what_does_not_end(guest):
    child = guest("import time; time.sleep(600)")
    start = time.monotonic()
    child.close(0.1)
    assert time.monotonic() - start < 30
    assert child._process.returncode == -signal.SIGKILL
