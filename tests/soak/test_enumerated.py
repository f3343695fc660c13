"""Fault harness in the suite: a fault at every file operation of one model.

Of six kinds in turn, with another one first each time; `make soak` tries all kinds at each.
"""

import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

KINDS = "kill,torn,ENOSPC,TERM,power,names"


@pytest.mark.night
def test_a_run_survives_a_fault_at_each_of_its_file_operations(tmp_path):
    """In a process of its own: forks need one without threads."""
    command = [sys.executable, "-m", "tests.soak", "--minutes=0", f"--kinds={KINDS}", "--by-turns"]
    command += [f"--folder={tmp_path}", f"--cache={tmp_path / 'cache'}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    n_faults = int(re.findall(r"^(\d+) faults in \d+ trials", done.stdout, re.M)[-1])
    # 35 operations of a first run, 25 of a resumed one, 12 of an ending; removals need no disk
    assert n_faults > 50, done.stdout
