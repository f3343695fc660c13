"""The soak of own apps sees lost work: with a mistake in the product of its processes, it fails."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.soak.apps import mistakes

SEEN = {
    "never_saved": ("local-kill_point", r"lost: seed \d: started at step 0, after \d+ was saved"),
    "nothing_saved": ("local-kill_point", r"lost: seed \d: started at step 0, after \d+ was saved"),
    "seldom_saved": ("local-term", r"lost: seed \d: step \d+ was not saved, 0\.\d+ s after"),
    "wrong_step": ("local-kill_point", r"wrong: seed \d: started at step \d+ with what was saved"),
    "history_twice": ("local-kill_point", r"doubled: seed \d: steps of the history don't rise"),
    "history_anew": ("local-kill_point", r"lost: seed \d: history lacks steps"),
    "values_dropped": ("local-term", r"differing: seed \d: record: values"),
    "done_twice": ("local-term", r"doubled: seed \d: 2 times done"),
    "done_again": ("local-term", r"doubled: seed \d: it was done, and was run again"),
    "no_claim": ("local-two", r"doubled: seed \d: process \d+ did step"),
    "always_zero": ("local-two", r"wrong: out-\d+\.txt: exit code 0, and \d of 4 walks are done"),
    "waiting_lost": ("workers-term", r"wrong: the last command: exit code 0, and 3 of 4 walks"),
    "waiting_stays": ("workers-term", r"leftover: waiting/"),
    "waits_for_the_dead": ("dask-kill_all", r"lost: the same command ended with \[\[3\], \[3\]"),
    "withdrawn_for_all": (
        "dask-two",
        r"(hang: |wrong: out-\d+\.txt: exit code 1, .*one after another)",
    ),
}


def test_each_mistake_has_its_verdict():
    assert set(SEEN) == set(mistakes())


@pytest.mark.night
@pytest.mark.parametrize("mistake", SEEN)
def test_a_mistake_is_seen(tmp_path, mistake):
    trial, verdict = SEEN[mistake]
    command = [sys.executable, "-m", "tests.soak", f"--only=apps-{trial}", "--minutes=15", "--stop"]
    command += ["--seed=1", f"--mutant={mistake}", f"--folder={tmp_path}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(f"^  {verdict}", done.stdout, re.M), done.stdout
