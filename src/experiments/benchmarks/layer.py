"""Forward + backward of one feed-forward layer, ours and PyPI's, against the floor.

With --with-optimizer and --memory also steps of AdamW, and peak memory.
"""

import json
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from experiments.benchmarks.core import contenders, machine, memory, peak, rivals
from experiments.benchmarks.core.agreement import check_agreement
from experiments.benchmarks.core.arguments import GRID, add_comparison, read_comparison
from experiments.benchmarks.core.case import Case
from experiments.benchmarks.core.comparing import run_comparison
from experiments.benchmarks.core.contenders import HALF
from experiments.benchmarks.core.memory import fitting, moments_bytes, table_bytes
from experiments.benchmarks.core.progress import each
from experiments.benchmarks.core.rates import Rates, measure
from experiments.benchmarks.core.report import Comparison, Peaks, Section
from experiments.benchmarks.core.roofline import FAMILIES, Family, Floor, compute_floors
from experiments.benchmarks.core.shapes import Settings, Shape, type_name
from experiments.benchmarks.core.timing import Contender
from experiments.kernels.workspace import WORKSPACE


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--with-optimizer",
        action="store_true",
        help="a second table, with AdamW of both expert tables",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="peak memory too, each contender in its own process",
    )
    parser.add_argument("--memory-of", help=SUPPRESS)  # prints bytes: what such a process does
    add_comparison(parser, {"d": "256,512", "n_experts": GRID, "tokens": "1024,4096"})


def run(options: Namespace) -> None:
    if options.memory_of is not None:
        shapes, settings, _ = read_comparison(options)
        machine.prepare(settings, options.part or options.allocator, options.threads)
        absent = rivals.absent(settings.device, settings.table_dtype)
        every = partial(_every, absent=absent)
        print(json.dumps(peak.peak_bytes(shapes[0], settings, every, options.memory_of)))
        return
    words = options.words if options.memory else None
    run_comparison(
        options, partial(sections, with_optimizer=options.with_optimizer, memory_by=words)
    )


def sections(
    shapes: Sequence[Shape],
    settings: Settings,
    *,
    with_optimizer: bool,
    memory_by: Sequence[str] | None = None,
) -> Iterator[Section]:
    """Comparisons of each shape, one after another. memory_by: the command's own words, for
    the processes that measure memory; None: it is not measured.
    """
    absent = rivals.absent(settings.device, settings.table_dtype)
    for shape in shapes:
        case = Case(shape, settings)
        yield _passes(case, absent)
        if with_optimizer:
            yield _steps(case, absent)
        del case
        memory.release(settings.device)
        if memory_by is not None:  # each process makes tables of its own, now that these are gone
            yield _peaks(shape, settings, absent, memory_by)


def _every(case: Case, absent: Mapping[str, str]) -> list[Contender]:
    """Contenders whose memory is measured. fused steps in its backward pass, others don't."""
    fused = [e for e in contenders.steps(case, absent) if e.name.endswith("fused")]
    return [*contenders.passes(case, absent), *fused]


def _passes(case: Case, absent: Mapping[str, str]) -> Comparison:
    device = case.settings.device
    tables = 2 * table_bytes(case.shape, case.settings)
    chosen, left_out = fitting(contenders.passes(case, absent), device, tables)
    agreement = check_agreement(case, {entry.name for entry in chosen})
    rates = measure(case.shape, case.peer.w_down, case.settings)
    timings = case.settings.compare(chosen, case.shape.describe())
    # again, for a machine that had other work to do before
    rates = rates.or_better(measure(case.shape, case.peer.w_down, case.settings))
    row_bytes = case.shape.d_model * case.peer.w_down.itemsize
    floors = {
        family: compute_floors(family, case.shape, case.n_distinct, row_bytes, rates)
        for family in FAMILIES
    }
    columns: dict[str, dict[str, float]] = {}
    for timing in timings:
        if not timing.name.startswith("MoE"):
            for each in floors[_find_family(timing.name)]:
                column = columns.setdefault(f"% of {each.name}", {})
                column[timing.name] = 100 * each.total / timing.median
    return Comparison(
        title=f"layer, forward + backward, {_describe(case)}",
        shape=asdict(case.shape),
        timings=timings,
        columns=columns,
        notes=[*absent.values(), *left_out, *agreement, *_floor_notes(case, floors, rates)],
        facts={
            "n_distinct": case.n_distinct,
            "rates": asdict(rates),
            "floors": {family: [f.as_json() for f in each] for family, each in floors.items()},
        },
    )


def _steps(case: Case, absent: Mapping[str, str]) -> Comparison:
    case.drop_gradients()
    WORKSPACE.release()  # dense gradients, where now the moments have to go
    needed = moments_bytes(case.shape, case.settings)
    chosen, left_out = fitting(contenders.steps(case, absent), case.settings.device, needed)
    timings = case.settings.compare(chosen, f"{case.shape.describe()}, with AdamW")
    return Comparison(
        title=f"layer, forward + backward + AdamW of both tables, {_describe(case)}",
        shape=asdict(case.shape),
        timings=timings,
        notes=[*absent.values(), *left_out, "fused steps the rows in the backward pass"],
    )


def _peaks(
    shape: Shape, settings: Settings, absent: Mapping[str, str], words: Sequence[str]
) -> Peaks:
    case = Case(shape, settings)
    every: list[Contender] = []
    left_out = []
    for entry in _every(case, absent):  # each has the machine for itself
        resident = 2 * table_bytes(shape, settings)
        if entry.name.endswith("fused"):
            resident += moments_bytes(shape, settings)
        chosen, lines = fitting([entry], settings.device, resident)
        every += chosen
        left_out += lines
    sizes = {
        "--d": shape.d_model,
        "--n-experts": shape.n_experts,
        "--tokens": shape.n_tokens,
        "--d-key": shape.d_key,
    }
    one = [text for name, value in sizes.items() for text in (name, str(value))]
    n_bytes = {
        entry.name: peak.in_own_process([*words, *one, "--memory-of", entry.name])
        for entry in each(every, len(every), f"{shape.describe()}, memory")
    }
    peers = rivals.NAIVE if rivals.PEER_PYTORCH in absent else rivals.PEER_PYTORCH
    baselines = {e.name: peers if e.name.endswith("fused") else e.baseline for e in every}
    return Peaks(
        title=f"layer, peak memory over resident tables and moments, {_describe(case)}",
        shape=asdict(shape),
        n_bytes=n_bytes,
        baselines=baselines,
        notes=[*left_out, "forward + backward; fused with its step, the others without"],
    )


def _find_family(name: str) -> Family:
    if name.startswith(HALF):
        return "PEER half"
    return "PKM" if name.startswith(("PKM", rivals.PRODUCT_KEY_MEMORY)) else "PEER"


def _floor_notes(case: Case, floors: Mapping[Family, list[Floor]], rates: Rates) -> list[str]:
    share = case.n_distinct / case.shape.n_experts
    return [
        f"{case.n_distinct} distinct experts retrieved ({share:.1%})",
        f"random rows: {rates.rows / 1e9:.1f} GB/s, the best observed of our gathers "
        f"({rates.rows / rates.copy:.0%} of a copy's {rates.copy / 1e9:.1f}, read and written)",
        f"types of products: queries {rates.query_type}, keys {rates.keys_type}",
        *(f"{family} {each.describe()}" for family in FAMILIES for each in floors[family]),
    ]


def _describe(case: Case) -> str:
    return f"{case.shape.describe()}, {type_name(case.settings.table_dtype)}"
