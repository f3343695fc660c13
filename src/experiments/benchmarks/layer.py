"""Forward and backward of one feed-forward layer: ours, the rivals', and how far from the floor."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from experiments.benchmarks import contenders, peak, rivals
from experiments.benchmarks.agreement import check_agreement
from experiments.benchmarks.case import Case
from experiments.benchmarks.memory_fit import Entry, fitting, moments_bytes, table_bytes
from experiments.benchmarks.progress import each
from experiments.benchmarks.rates import Rates, measure
from experiments.benchmarks.roofline import FAMILIES, Family, Floor, floors_of
from experiments.benchmarks.shapes import Settings, Shape, type_name
from experiments.benchmarks.tables import Comparison, Peaks, Report
from experiments.benchmarks.timing import compare
from experiments.kernels.workspace import WORKSPACE


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured beside forward and backward. arguments: the command's own, for processes
    that repeat a part of it.
    """

    with_optimizer: bool
    memory: bool
    arguments: tuple[str, ...]


def run(shapes: Sequence[Shape], settings: Settings, options: Options, report: Report) -> None:
    """The comparisons of each shape, one after another."""
    absent = rivals.absent(settings.device, settings.table_dtype)
    for shape in shapes:
        case = Case(shape, settings)
        report.add(_passes(case, absent, options))
        if options.with_optimizer:
            report.add(_steps(case, absent))
        del case
        gc.collect()
        WORKSPACE.release()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
        if options.memory:  # each process makes tables of its own, now that these are gone
            report.add(_peaks(shape, settings, absent, options))


def peak_bytes(shape: Shape, settings: Settings, options: Options, name: str) -> int:
    """Bytes that one contender takes for forward and backward; of this process, which is new."""
    absent = rivals.absent(settings.device, settings.table_dtype)
    return peak.peak_bytes(shape, settings, lambda case: _every(case, absent, options), name)


def _every(case: Case, absent: Mapping[str, str], options: Options) -> list[Entry]:
    """The contenders whose memory is measured. fused steps in its backward pass, others don't."""
    fused = [e for e in contenders.steps(case, absent) if e.name.endswith("fused")]
    return [*contenders.passes(case, absent), *fused]


def _passes(case: Case, absent: Mapping[str, str], options: Options) -> Comparison:
    device = case.settings.device
    tables = 2 * table_bytes(case.shape, case.settings)
    chosen, left_out = fitting(contenders.passes(case, absent), device, tables)
    agreement = check_agreement(case, {entry.name for entry in chosen})
    rates = measure(case.shape, case.peer.w_down, case.settings)
    timings = compare(
        [case.contender(entry) for entry in chosen],
        rounds=case.settings.rounds,
        device=device,
        label=case.shape.describe(),
    )
    # again, for a machine that had other work to do before
    rates = rates.or_better(measure(case.shape, case.peer.w_down, case.settings))
    row_bytes = case.shape.d_model * case.peer.w_down.itemsize
    floors = {
        family: floors_of(family, case.shape, case.n_distinct, row_bytes, rates)
        for family in FAMILIES
    }
    columns: dict[str, dict[str, float]] = {}
    for timing in timings:
        if not timing.name.startswith("MoE"):
            is_pkm = timing.name.startswith(("PKM", rivals.PRODUCT_KEY_MEMORY))
            for each in floors["PKM" if is_pkm else "PEER"]:
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
    timings = compare(
        [case.contender(entry) for entry in chosen],
        rounds=case.settings.rounds,
        device=case.settings.device,
        label=f"{case.shape.describe()}, with AdamW",
    )
    return Comparison(
        title=f"layer, forward + backward + AdamW of both tables, {_describe(case)}",
        shape=asdict(case.shape),
        timings=timings,
        notes=[*absent.values(), *left_out, "fused steps the rows in the backward pass"],
    )


def _peaks(shape: Shape, settings: Settings, absent: Mapping[str, str], options: Options) -> Peaks:
    case = Case(shape, settings)
    every: list[Entry] = []
    left_out = []
    for entry in _every(case, absent, options):  # each has the machine for itself
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
        entry.name: peak.in_own_process([*options.arguments, *one, "--memory-of", entry.name])
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
