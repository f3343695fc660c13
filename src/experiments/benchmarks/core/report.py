"""Measurements as text for a terminal and as plain values for JSON."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from experiments.benchmarks.core.timing import Timing
from experiments.system.text_table import aligned


class Section(Protocol):
    """A part of a report."""

    def lines(self) -> list[str]:
        """For people."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Everything, unrounded."""
        ...


def printed(sections: Iterable[Section]) -> Iterator[Section]:
    """Each as it comes, with an empty line behind."""
    for section in sections:
        print("\n".join((*section.lines(), "")), flush=True)
        yield section


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Contenders at one shape.

    columns: further numbers by column and contender. facts: more fields of the JSON file.
    """

    title: str
    shape: Mapping[str, Any]
    timings: tuple[Timing, ...]
    columns: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ratio(self, timing: Timing) -> float | None:
        """How many times faster than its baseline; None for one that has none here."""
        known = {t.name: t for t in self.timings}
        if timing.baseline is None or timing.baseline not in known:
            return None
        return timing.times_faster_than(known[timing.baseline])

    def lines(self) -> list[str]:
        """Medians, ranges, how many times faster than the baseline, and the further columns."""
        head = ["", "median ms", "min", "max", "times faster", "than", *self.columns]
        loud = any(t.n_loud for t in self.timings)
        rows = [[*head, *(["disturbed"] if loud else [])]]
        for t in self.timings:
            ratio = self.ratio(t)
            row = [t.name, *(_ms(s) for s in (t.median, min(t.seconds), max(t.seconds)))]
            row += ["", ""] if ratio is None else [f"{ratio:.2f}", str(t.baseline)]
            row += [_number(column.get(t.name)) for column in self.columns.values()]
            row += [f"{t.n_loud} of {len(t.repeats)}"] if loud else []
            rows.append(row)
        return [self.title, *_indented(aligned(rows)), *_indented(self.notes)]

    def as_json(self) -> dict[str, Any]:
        contenders = [
            {
                "name": t.name,
                "baseline": t.baseline,
                "median_seconds": t.median,
                "times_faster": self.ratio(t),
                "columns": {
                    name: column[t.name]
                    for name, column in self.columns.items()
                    if t.name in column
                },
                "repeats": [asdict(repeat) for repeat in t.repeats],
            }
            for t in self.timings
        ]
        return {
            "title": self.title,
            "shape": dict(self.shape),
            "contenders": contenders,
            "notes": list(self.notes),
            **self.facts,
        }


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Peak bytes of each contender, above the memory that was resident before."""

    title: str
    shape: Mapping[str, Any]
    n_bytes: Mapping[str, int]
    baselines: Mapping[str, str | None]
    notes: Sequence[str] = ()

    def _share(self, name: str) -> float | None:
        baseline = self.n_bytes.get(self.baselines[name] or "")
        return None if baseline is None else self.n_bytes[name] / max(1, baseline)

    def lines(self) -> list[str]:
        """MiB, and the share of the baseline's."""
        rows = [["", "extra MiB", "share", "of"]]
        for name, n_bytes in self.n_bytes.items():
            share = self._share(name)
            compared = ["", ""] if share is None else [f"{share:.3f}", str(self.baselines[name])]
            rows.append([name, f"{n_bytes / 2**20:,.1f}", *compared])
        return [self.title, *_indented(aligned(rows)), *_indented(self.notes)]

    def as_json(self) -> dict[str, Any]:
        contenders = [
            {"name": n, "baseline": self.baselines[n], "extra_bytes": b, "share": self._share(n)}
            for n, b in self.n_bytes.items()
        ]
        about = {"title": self.title, "shape": dict(self.shape), "notes": list(self.notes)}
        return {**about, "contenders": contenders}


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:,.1f}" if ms >= 10 else f"{ms:.3f}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
