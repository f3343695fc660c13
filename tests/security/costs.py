"""What large files of strangers cost: `python -m tests.security.costs [WORDS]`; docs/trust.md.

A line a kind: seconds of a processor and the peak of memory of the real command. Not a part of the
tests: it takes minutes, and gigabytes.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.system.seals import save_sealed
from experiments.system.text_table import aligned
from experiments.training.checkpoints import LAST
from tests.adapters.small import adapter, write_peft
from tests.analysis.tables import BUDGETS, SIZES, growing
from tests.security.__main__ import place
from tests.security.attacks import environment


def _runs() -> pd.DataFrame:
    rows = [("dense", c, n, c / n / 6, growing(n, c), "done") for c in BUDGETS for n in SIZES]
    return pd.DataFrame(rows, columns=["model", "budget", "n_params", "n_tokens", "loss", "status"])


def _rows(root: Path) -> list[str]:
    """5 million rows, each a run of a seed of its own."""
    few = _runs()
    table = few.loc[np.arange(5 * 10**6) % len(few)].assign(seed=np.arange(5 * 10**6) // len(few))
    table.to_parquet(root / "rows.parquet", index=False)
    return ["analysis", "isoflop", "rows.parquet", "--brief", "--out", "out"]


def _columns(root: Path) -> list[str]:
    few = _runs()
    more = pd.DataFrame({f"column {i}": "x" for i in range(10**4)}, index=few.index)
    pd.concat([few, more], axis=1).to_csv(root / "columns.csv", index=False)
    return ["analysis", "isoflop", "columns.csv", "--brief", "--out", "out"]


def _seals(root: Path) -> list[str]:
    """A checkpoint whose tables are said to be in a million files."""
    run_dir = place(root).run()
    loaded = torch.load(run_dir / LAST, weights_only=True)
    seals = ["0" * 64] * 10**6
    save_sealed({**loaded, "tables": {"folder": "1-a", "seals": seals}}, run_dir / LAST)
    return ["experiments.generate", str(run_dir), "the", "max_tokens=1"]


def _patterns(root: Path) -> list[str]:
    """As many for 200 maps as are read: 10^7 matches."""
    folder = root / "lora"
    write_peft(folder, adapter("x", 2, blocks=range(100)))
    path = folder / "adapter_config.json"
    patterns = {f"model.layers.{i}.x": 1 for i in range(5 * 10**4)}
    path.write_text(json.dumps({**json.loads(path.read_text()), "alpha_pattern": patterns}))
    return ["experiments.library", "make", "L", str(folder)]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "a Parquet of 5 million rows": _rows,
    "a CSV of 10,000 columns": _columns,
    "a checkpoint of 1 million seals": _seals,
    "50,000 patterns of a LoRA's 200 maps": _patterns,
}


def main() -> None:
    """Prints the table."""
    rows = [("kind", "MB", "exit", "CPU s", "MiB", "s", "load", "last line")]
    for name, prepare in KINDS.items():
        if " ".join(sys.argv[1:]) in name:
            with tempfile.TemporaryDirectory(prefix="strangers-") as folder:
                rows.append((name, *_cost(prepare, Path(folder))))
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print("\n".join(aligned(rows)))


def _cost(prepare: Callable[[Path], list[str]], root: Path) -> tuple[str, ...]:
    words = prepare(root)
    size = max(path.stat().st_size for path in root.rglob("*") if path.is_file())
    load, start, said = os.getloadavg()[0], time.monotonic(), root / "said"
    actions = [(os.POSIX_SPAWN_OPEN, fd, said, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
               for fd in (1, 2)]  # fmt: skip
    said.unlink(missing_ok=True)
    os.chdir(root)
    command = [sys.executable, "-m", *words]
    pid = os.posix_spawn(sys.executable, command, environment(root), file_actions=actions)
    # not ru_maxrss, which begins at the peak of this process, where the file was made
    peak, ended = 0, 0
    while not ended:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
        peak = int(found[1]) if found else peak  # KiB; a process that has ended has none
        time.sleep(0.05)
        ended, status, usage = os.wait4(pid, os.WNOHANG)
    last = (said.read_text().strip().splitlines() or [""])[-1]
    cpu, wall = usage.ru_utime + usage.ru_stime, time.monotonic() - start
    return (
        f"{size / 1e6:.0f}", str(os.waitstatus_to_exitcode(status)), f"{cpu:.1f}",
        f"{peak / 2**10:.0f}", f"{wall:.0f}", f"{load:.1f}", last[:100],
    )  # fmt: skip


if __name__ == "__main__":
    main()
