"""Started by torchrun: trains every config of a JSON file, one after another, on its ranks.

Each in a process of its own, forked from this one, which has imported all that they need.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from experiments.execute import execute
from experiments.point import make_point


def train(raw):
    record = execute(make_point(raw))
    assert record.status == "done", record.error


if __name__ == "__main__":
    for i, raw in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(i)  # each has keys of its own in the store
        process = multiprocessing.get_context("fork").Process(target=train, args=(raw,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{raw['model_name']}: exit code {process.exitcode}")
