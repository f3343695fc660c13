"""docs/performance.md's tables of results/performance: `python -m tests.benchmarks.recorded`."""

import json
import re

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "performance"


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def layers():
    """Contender, and of 1,024 and 4,096 tokens the median and lowest in ms, and times faster."""
    found = [read(f"layer_{n}")["parts"][0]["comparisons"][0] for n in (1024, 4096)]
    rows = []
    for both in zip(*(one["contenders"] for one in found), strict=True):
        cells = []
        for one in both:
            lowest = min(each["seconds"] for each in one["repeats"])
            times = one["times_faster"]
            cells += [f"{1e3 * one['median_seconds']:,.0f} ({1e3 * lowest:,.0f})",
                      f"{times:.1f} ×" if times else ""]  # fmt: skip
        rows.append([both[0]["name"], *cells])
    return rows


def trunks():
    """Contender, and the GFLOP/s of all processes at each shape, with times faster than eager."""
    every = read("trunk")
    rows = {}
    for at, one in enumerate(every["comparisons"]):
        flops = 1e9 * float(re.search(r"([\d.]+) GFLOP$", one["title"])[1])
        for contender in one["contenders"]:
            cells = rows.setdefault(contender["name"], [""] * len(every["comparisons"]))
            rate = every["n_processes"] * flops / contender["median_seconds"] / 1e9
            times = contender["times_faster"]
            cells[at] = f"{rate:.0f}" + (f" ({times:.2g} ×)" if times else "")
    return [[name, *cells] for name, cells in rows.items()]


if __name__ == "__main__":
    for row in (*layers(), *trunks()):
        print("| " + " | ".join(row) + " |")
