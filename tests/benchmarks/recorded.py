"""Tables of results/performance, for docs/performance.md and docs/performance_zen_3.md:
`python -m tests.benchmarks.recorded`.

The rows of a table are contenders, its columns the shapes that were compared.
"""

import json
import re
from statistics import median

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "results" / "performance"
INTEL, ZEN_3, AMX = "xeon", "zen_3", "amx"  # folders
FILES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.json")
)


LEVELS = (  # file and contender
    ("retrieval", "cpp, forward + backward"),
    ("trunk", "eager bf16"),
    ("trunk", "fused float32"),
    ("trunk", "fused bf16"),
)


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def parts(name):
    """Of each allocator what was compared, and on what; `bench trunk` has one."""
    found = read(name)
    return found.get("parts", [found])


def compared(*names, title=""):
    """Comparisons of files, of those whose titles begin so."""
    every = [one for name in names for part in parts(name) for one in part["comparisons"]]
    return [one for one in every if one["title"].startswith(title)]


def grid(comparisons, cells, *, only=""):
    """A row for each contender whose name ends so, with its cells at each shape."""
    rows, width = {}, len(cells(comparisons[0]["contenders"][0]))
    for at, one in enumerate(comparisons):
        for contender in one["contenders"]:
            if contender["name"].endswith(only):
                row = rows.setdefault(contender["name"], [""] * width * len(comparisons))
                row[width * at : width * (at + 1)] = cells(contender)
    return [[name, *row] for name, row in rows.items()]


def ms(contender):
    """Median, and the lowest."""
    lowest = min(each["seconds"] for each in contender["repeats"])
    return f"{1e3 * contender['median_seconds']:,.0f} ({1e3 * lowest:,.0f})"


def faster(contender):
    times = contender["times_faster"]
    return f"{times:.1f} ×" if times else ""


def by_floor(contender):
    share = contender["columns"].get("% of square-GEMM floor")
    return [ms(contender), faster(contender), f"{share:.0f} %" if share else ""]


def layers(folder):
    names = ["layer_1024", "layer_4096"] if folder == ZEN_3 else ["layer"]
    return grid(compared(*(f"{folder}/{name}" for name in names)), by_floor)


def sizes():
    """PEER-pytorch, rows and how many times faster at each width, number of experts and batch."""
    rows = {}
    for one in compared(f"{INTEL}/shapes", f"{INTEL}/wide"):
        contenders = {each["name"]: each for each in one["contenders"]}
        shape = re.search(r"d=\d+ N=\d+²", one["title"])[0]
        found = contenders["cpp rows"]
        cells = [ms(contenders["PEER-pytorch"]), ms(found), faster(found)]
        rows.setdefault(shape, [shape]).extend(cells)
    return [[*row, *[""] * (7 - len(row))] for row in rows.values()]


def with_optimizer():
    title = "layer, forward + backward + AdamW"
    found = compared(f"{INTEL}/with_optimizer", title=title)
    return grid(found, lambda one: [ms(one), faster(one)])


def memory():
    def cells(one):
        share = one["share"]
        return [f"{one['extra_bytes'] / 2**20:,.0f} MiB", f"{share:.2f}" if share else ""]

    return grid(compared(f"{INTEL}/with_optimizer", title="layer, peak memory"), cells)


def optimizer():
    found = compared(f"{INTEL}/optimizer")
    return grid(found, lambda one: [ms(one), f"{one['columns']['GB/s']:.1f}"])


def step():
    found = compared(f"{INTEL}/step")
    return grid(found, lambda one: [ms(one), f"{one['columns']['time / dense']:.2f} ×"])


def compiled():
    """Of each compiled contender, against itself in eager code."""
    names = [f"{INTEL}/step_compile_{n}" for n in (3, 4, 5)]
    return grid(compared(*names), lambda one: [ms(one), faster(one)], only=" compiled")


def retrieval(folder):
    found = compared(f"{folder}/retrieval")
    return grid(found, lambda one: [ms(one), faster(one)], only="forward + backward")


def trunks(folder):
    """The GFLOP/s of all processes at each shape, with times faster than eager."""
    every, rows = read(f"{folder}/trunk"), {}
    for at, one in enumerate(every["comparisons"]):
        flops = 1e9 * float(re.search(r"([\d.]+) GFLOP$", one["title"])[1])
        for contender in one["contenders"]:
            cells = rows.setdefault(contender["name"], [""] * len(every["comparisons"]))
            rate = every["n_processes"] * flops / contender["median_seconds"] / 1e9
            times = contender["times_faster"]
            cells[at] = f"{rate:.0f}" + (f" ({times:.2g} ×)" if times else "")
    return [[name, *cells] for name, cells in rows.items()]


def levels():
    """Largest shape of search and trunk, by the kernels of both levels, in turn, twice."""
    turns = [(level, turn) for turn in (1, 2) for level in ("avx512_bf16", "avx512")]
    rows = []
    for name, contender in LEVELS:
        files = [f"{INTEL}/levels/{name}_{level}_{turn}" for level, turn in turns]
        found = [dict(grid(compared(file)[-1:], lambda one: [ms(one)])) for file in files]
        rows.append([contender, *(each[contender] for each in found)])
    return rows


def harness():
    """Microseconds of a run's step, of the bare loop's, the run's own, and its share."""
    rows = []
    for one in read(f"{INTEL}/harness")["models"]:
        whole, bare = median(one["run_seconds"]), median(one["bare_seconds"])
        own = median(a - b for a, b in zip(one["run_seconds"], one["bare_seconds"], strict=True))
        cells = (f"{1e6 * each:,.0f}" for each in (whole, bare, own))
        rows.append([one["name"], *cells, f"{100 * own / whole:.1f} %"])
    return rows


def plans():
    """CPU seconds of imports alone and of plans, their ratio, a point's own time and memory."""
    runs = read(f"{AMX}/plan")["runs"]
    imports, rows = median(one["cpu_seconds"] for one in runs["imports"]), []
    for name, repeats in runs.items():
        seconds = median(one["cpu_seconds"] for one in repeats)
        each = f"{1e3 * (seconds - imports) / int(name):.1f} ms" if name != "imports" else ""
        peak = max(one["peak_bytes"] for one in repeats) / 2**20
        rows.append([name, f"{seconds:.2f}", f"{seconds / imports:.2f} ×", each, f"{peak:.0f} MiB"])
    return rows


_OF_AMX = ("PEER-pytorch", "cpp half, rows", "cpp rows", "product-key-memory", "PKM cpp rows")
TABLES = {
    "layer": lambda: layers(INTEL),
    "sizes": sizes,
    "with the optimizer": with_optimizer,
    "memory": memory,
    "optimizer": optimizer,
    "step": step,
    "compiled": compiled,
    "retrieval": lambda: retrieval(INTEL),
    "trunk": lambda: trunks(INTEL),
    "harness": harness,
    "levels": levels,
    "plan": plans,
    "layer, Zen 3": lambda: layers(ZEN_3),
    "trunk, Zen 3": lambda: trunks(ZEN_3),
    "layer, AMX": lambda: [row for row in layers(AMX) if row[0] in _OF_AMX],
    "trunk, AMX": lambda: trunks(AMX),
    "retrieval, AMX": lambda: retrieval(AMX),
}

if __name__ == "__main__":
    for title, rows in TABLES.items():
        print(f"\n{title}\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows()))
