"""Started by torchrun: trains every config of a JSON file, one after another, on its ranks.

Each in a process of its own, forked from this one, which has imported all that they need.
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

from torch.distributed import TCPStore

from experiments.points.planning import make_point
from experiments.training.execute import execute


def train(raw):
    record = execute(make_point(raw))
    assert record.status == "done", record.error


if __name__ == "__main__":
    torchruns = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # it would have the run before's addresses
    for i, raw in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        if os.environ["RANK"] == "0":
            with socket.socket() as free:
                free.bind(("localhost", 0))
                torchruns.set(f"port of run {i}", str(free.getsockname()[1]))
        os.environ["MASTER_PORT"] = torchruns.get(f"port of run {i}").decode()
        process = multiprocessing.get_context("fork").Process(target=train, args=(raw,))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(f"{raw['model_name']}: exit code {process.exitcode}")
