"""How long a sweep's plan takes, by its points, beside the time that its imports alone take.

Each plan is a dry run in a process of its own, from its start to its end: five models at two sizes,
and as many seeds as make the points. Plans and imports take turns. Seconds are of CPU, which other
processes change less than those of a clock.
"""

import os
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from statistics import median

from experiments.benchmarks.core.arguments import (
    add_json,
    check_json,
    parse_numbers,
    save_json,
)
from experiments.system import environment
from experiments.system.command import at_least
from experiments.system.text_table import aligned

_MODELS, _SIZES = "dense,moe,pkm,peer,peer_narrow", "2,4"
_CELLS = 10
_IMPORTS = "import hydra, experiments.run, experiments.sweep.many_runs"


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--points",
        default="40,270,1080",
        metavar="N,...",
        help="multiples of 10 (default 40,270,1080)",
    )
    parser.add_argument("--rounds", type=at_least(1), default=3, metavar="N", help="(default 3)")
    add_json(parser)


def run(options: Namespace) -> None:
    """Prints a line for the imports and for each number of points, and writes --json."""
    check_json(options)
    numbers = parse_numbers("--points", options.points)
    for n in numbers:
        if n % _CELLS:
            raise ValueError(f"--points {n} is no multiple of {_CELLS}, the models at each size")
    commands = {"imports": ["-c", _IMPORTS], **{str(n): _plan(n) for n in numbers}}
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory(prefix="experiments-bench-") as folder:
        for turn in range(options.rounds):
            for name, words in commands.items():
                print(f"round {turn + 1}: {name} ...", file=sys.stderr, flush=True)
                taken[name].append(_measured(words, folder))
    imports = median(seconds for seconds, _ in taken["imports"])
    rows: list[tuple[str, ...]] = [("points", "CPU seconds", "of the imports'", "a point", "MiB")]
    for name, repeats in taken.items():
        seconds, peak = median(s for s, _ in repeats), max(n_bytes for _, n_bytes in repeats)
        each = f"{1e3 * (seconds - imports) / int(name):.1f} ms" if name != "imports" else ""
        times = f"{seconds / imports:.2f} ×"
        rows.append((name, f"{seconds:.2f}", times, each, f"{peak / 2**20:.0f}"))
    print("\n".join(aligned(rows)))
    about = {"processor": environment.processor(), **environment.describe("cpu")}
    runs = {
        name: [{"cpu_seconds": s, "peak_bytes": n_bytes} for s, n_bytes in repeats]
        for name, repeats in taken.items()
    }
    load = {"load_of_15_minutes": os.getloadavg()[2]}
    save_json(options, {"arguments": options.words, **about, **load, "runs": runs})


def _plan(n_points: int) -> list[str]:
    """Words of a dry run of so many points. Its rate is given, for to measure one takes time."""
    grid = (f"model={_MODELS}", f"size={_SIZES}", f"seed=range({n_points // _CELLS})")
    fixed = ("budget=1e13", "trainer.flops_per_second=5e10", "dry_run=true")
    return ["-m", "experiments.run", "-m", *grid, *fixed]


def _measured(words: Sequence[str], folder: str) -> tuple[float, int]:
    """CPU seconds and most bytes of a process. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"{' '.join(words)} failed: {last}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, used.ru_maxrss * unit
