"""Started by torchrun: trains every config of a JSON file, one after another, on its ranks."""

import json
import os
import sys
from pathlib import Path

from experiments.execute import execute
from experiments.point import make_point

if __name__ == "__main__":
    for i, raw in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(i)  # each has keys of its own in the store
        record = execute(make_point(raw))
        assert record.status == "done", record.error
