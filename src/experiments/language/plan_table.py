"""Dry run's table: the cost of every point."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from experiments.budget.plan import format_memory, format_shares
from experiments.language.estimate import memory_bandwidth, n_devices, seconds_of
from experiments.language.trunks import make_trunks, savings_text
from experiments.points.point import Point
from experiments.sweep.settings import with_settings
from experiments.system.text_table import aligned, count, duration

_COLUMNS = (
    "model", "N", "size", "d_model", "params", "active", "FLOPs/token", "budget",
    "tokens", "epochs", "steps", "lr", "est. time", "memory",
)  # fmt: skip


def plan_table(points: Sequence[Point], flops_per_second: float) -> str:
    """A line for each cell of points that differ in the seed alone, then the sum; above all that
    the cluster's card, if there is one to plan for, and what all points share. Of a branch the time
    is that of its own steps, and its trunk has a line. With `verbose` the largest shares of FLOPs
    and of memory too. flops_per_second: of a device.
    """
    trunks = with_settings(make_trunks(points))
    points = [*trunks, *points]
    verbose = points[-1].config.verbose
    lines = _table(points, flops_per_second)
    if verbose:
        lines += _shares(points)
    lines += _too_large(points)
    lines += _of_parts(points)
    lines += savings_text(points)
    total, devices = sum(p.own_flops for p in points), ", ".join(_once(map(_device, points)))
    if any(point.device.card for point in points):
        lines.insert(0, f"Planned for {devices}:")
    lines += [
        "",
        f"{len(points)} run{'s' if len(points) > 1 else ''}, {total:.3g} FLOPs, about "
        f"{duration(sum(seconds_of(p, flops_per_second) for p in points))} one after the other "
        f"at {_rates(points[0], flops_per_second)}, on {devices}",
    ]
    packed = [p for p in points if not p.config.data.streaming and not p.plan.stage_steps]
    if any(p.plan.epochs is None for p in packed):
        lines += [
            "epochs: not known before the corpus has been tokenized here (the first run does)"
        ]
    if any(p.config.data.streaming for p in points):
        lines += ["epochs: not counted where the text is streamed"]
    if not verbose:
        lines += ["verbose=true: with the shares of FLOPs and of memory"]
    return "\n".join(lines)


def _table(points: Sequence[Point], flops_per_second: float) -> list[str]:
    """Lines of the cells, in the order of their first points. A column that is the same in all of
    them is said once, above.
    """
    seeds: dict[tuple[str, ...], list[int]] = {}
    for point in points:
        cells = _row(point, flops_per_second)
        note = (_note(point) + _other_settings(point, cells)).strip()
        seeds.setdefault((*cells, note), []).append(point.config.seed)
    shared = {name for name, *cells in zip(_COLUMNS, *seeds) if len(cells) > 1 and _same(cells)}
    rows = [tuple(name for name in _COLUMNS if name not in shared)]
    rows += [
        tuple(cell for name, cell in zip(_COLUMNS, row) if name not in shared) for row in seeds
    ]
    notes = [""] + [
        "  ".join(filter(None, (row[-1], f"seed={_listed(own)}" if len(own) > 1 else "")))
        for row, own in seeds.items()
    ]
    lines = [f"{line}  {note}".rstrip() for line, note in zip(aligned(rows), notes, strict=True)]
    first = next(iter(seeds))
    said = ", ".join(
        f"{name} {cell}"
        for name, cell in zip(_COLUMNS, first)
        if name in shared and cell not in ("", "?")
    )
    return [f"each run: {said}", *lines] if said else lines


def _same(cells: Sequence[str]) -> bool:
    return len({*cells}) == 1


def _listed(seeds: Sequence[int]) -> str:
    """0,1,2 as 0-2."""
    first, last = min(seeds), max(seeds)
    whole = sorted(seeds) == [*range(first, last + 1)] and len(seeds) > 2
    return f"{first}-{last}" if whole else ",".join(map(str, seeds))


def _other_settings(point: Point, cells: Sequence[str]) -> str:
    """Settings that no column says, but for those that are null."""
    said = {f"{name}={cell}" for name, cell in zip(_COLUMNS, cells, strict=True)}
    words = re.split(r" (?=[\w.]+=)", point.setting.strip())
    return " ".join(word for word in words if word not in said and not word.endswith("=None"))


def _shares(points: Sequence[Point]) -> list[str]:
    small = all(point.plan.memory.total < 2**30 for point in points)
    unit, name = (2**20, "MiB") if small else (2**30, "GiB")
    return [
        "",
        "Share of the FLOPs:",
        *_by_layer(points, lambda p: format_shares(p.plan.cost.shares(), 6)),
        "",
        f"Memory of one process, {name}:",
        *_by_layer(points, lambda p: format_memory(p.plan.memory, unit)),
    ]


def _rates(point: Point, flops_per_second: float) -> str:
    unit, name = (1e12, "TFLOP/s") if flops_per_second >= 1e12 else (1e9, "GFLOP/s")
    bandwidth = memory_bandwidth(point)
    memory = "" if bandwidth is None else f" and {bandwidth / 1e12:.3g} TB/s of memory"
    return f"{flops_per_second / unit:.3g} {name}{memory}{' each' if n_devices(point) > 1 else ''}"


def _device(point: Point) -> str:
    """Device that the run is planned for, in words."""
    n = n_devices(point)
    return f"{f'{n} x ' if n > 1 else ''}{point.device.describe()}"


def _too_large(points: Sequence[Point]) -> list[str]:
    """A line about the runs that the device has no room for."""
    memory = [(point, point.device.memory) for point in points]
    large = [p for p, available in memory if available and p.plan.memory.total > available]
    if not large:
        return []
    labels = ", ".join(_once(map(_label, large)))
    return ["", f"{len(large)} of {len(points)} runs do not fit, and would be refused: {labels}"]


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _note(point: Point) -> str:
    return "".join(part.note(point) for part in point.parts)


def _of_parts(points: Sequence[Point]) -> list[str]:
    """Lines of the runs' parts, under their headings."""
    said: dict[str, list[tuple[Point, str]]] = {}
    for point in points:
        for part in point.parts:
            line = part.plan_line(point)
            if line is not None:
                heading, text = line
                said.setdefault(heading, []).append((point, text))
    return [
        line for heading, own in said.items() for line in ("", f"{heading}:", *_format_lines(own))
    ]


def _by_layer(points: Sequence[Point], text_of: Callable[[Point], str]) -> list[str]:
    return _format_lines([(point, text_of(point)) for point in points])


def _format_lines(texts: Sequence[tuple[Point, str]]) -> list[str]:
    """A line for each model and size, or more where its settings make a difference."""
    distinct = {(_label(p), text): p.setting for p, text in reversed(texts)}
    labels = Counter(label for label, _ in distinct)
    lines = [
        (label + (setting if labels[label] > 1 else ""), text)
        for (label, text), setting in reversed(distinct.items())
    ]
    width = max(len(label) for label, _ in lines)
    return [f"  {label.ljust(width)}  {text}" for label, text in lines]


def _label(point: Point) -> str:
    experts = "" if point.config.n_experts is None else f" N={point.config.n_experts}"
    return f"{point.config.model_name}{experts} size={point.config.size}"


def _row(point: Point, flops_per_second: float) -> tuple[str, ...]:
    plan, cost = point.plan, point.plan.cost
    return (
        point.config.model_name,
        "" if point.config.n_experts is None else str(point.config.n_experts),
        str(point.config.size),
        str(point.transformer.d_model),
        count(cost.n_params),
        count(cost.n_active_params),
        count(cost.training_flops),
        f"{point.config.budget:.3g}",
        count(plan.n_tokens),
        "?" if plan.epochs is None else f"{plan.epochs:.2f}",
        str(plan.n_steps),
        f"{plan.lr:.2e}",
        duration(seconds_of(point, flops_per_second)),
        _memory(plan.memory.total),
    )


def _memory(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.1f} GiB"
