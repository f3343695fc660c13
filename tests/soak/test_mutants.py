"""The harness sees lost work: with a mistake put into the product, it fails."""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

FAULTS = {
    "unsynced": "--kinds=power",
    "ignores_term": "--kinds=TERM",
    "no_lease": "--only=lease-1",
    "not_renewed": "--only=lease-1",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of tokens, and of what undisturbed runs give: the same with each mistake."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.night
@pytest.mark.parametrize(
    ("mutant", "verdict"),
    [
        ("never_resume", "lost: started at step 0, and the newest whole checkpoint is of"),
        ("torch_generator", "differing: "),
        ("python_generator", "differing: "),
        ("in_place", r"lost: started at step 0, after \d+ was saved"),
        ("saved_at_the_end", "lost: step .* wasn't saved"),
        ("history_twice", "differing: history"),
        ("unsynced", "lost: "),
        ("previous_removed", "lost: when step 2 was saved, the checkpoint before did not stay"),
        ("no_lock", "wrong: started at step 0 without a lock"),
        ("ignores_term", "wrong: TERM at mkdir:soak: it went on to its end"),
        ("no_lease", "doubled: it had another host's run"),
        ("not_renewed", "doubled: it had another host's run"),
    ],
)
def test_a_mistake_is_seen(tmp_path, cache, mutant, verdict):
    """In some writes that a kill cuts short, unless FAULTS says where; test_enumerated has them
    without a mistake.
    """
    fault = FAULTS.get(mutant, "--kinds=torn")
    command = [sys.executable, "-m", "tests.soak", "--minutes=0", fault, "--stop", "--seed=1"]
    command += [f"--mutant={mutant}", f"--folder={tmp_path}", f"--cache={cache}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(f"^  {verdict}", done.stdout, re.M), done.stdout
