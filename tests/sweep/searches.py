"""A small search, as a command in a process of its own."""

import os
import subprocess
import sys

from experiments.system.claims import read_events
from tests.conftest import REPOSITORY, TINY

SEARCH = "hydra.sweeper.search={ladder.lr: 'log(2e-3, 4e-2)'}"
FIXED = (*TINY, "size=1", "budget=2e8", "sweep=s", "hydra.sweeper.n_trials=4", SEARCH)


def command(folder, *arguments):
    """The command as a process of its own."""
    words = [sys.executable, "-m", "experiments.run", "-m", *FIXED, "model=dense", *arguments]
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    variables = {**os.environ, "PYTHONPATH": path, "EXPERIMENTS_CACHE": str(folder / "cache")}
    log = (folder / "log.txt").open("a")
    with log:
        return subprocess.Popen(words, cwd=folder, env=variables, stdout=log, stderr=log)


def events(folder):
    """How often each run was started."""
    runs = (folder / "results/s").glob("*/events.jsonl")
    return {p.parent.name: [e["event"] for e in read_events(p.parent)] for p in runs}
