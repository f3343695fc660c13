"""Loss curves of runs, thinned: on a large sweep's page each is short. Standard library only."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from experiments.records.files import HISTORY_NAME
from experiments.system.regular_files import read_regular

_MOST = 64 * 2**20  # bytes of a history.csv: a row has 100
_LAST = 1e15  # steps
_COLUMNS = ("step", "n_tokens", "flops", "loss")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Training losses in nats per token, each the mean of its rows up to a step. flops, n_tokens:
    of a step.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    flops: float
    n_tokens: float


class Curves:
    """Reads each run's history.csv, again once it has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int], tuple[tuple[int, int], Curve | None]] = {}

    def read(self, run_dir: Path, n_most: int, first_step: int = 0) -> Curve | None:
        """At most n_most losses, evenly spaced in the logarithm of the step. first_step: that of a
        branch, whose rows before it are its trunk's. None without a row.
        """
        path = run_dir / HISTORY_NAME
        try:
            found = os.stat(path)  # noqa: PTH116  (of many runs: a Path's takes longer)
            key = found.st_mtime_ns, found.st_size
            if (known := self._known.get((path, n_most))) is not None and known[0] == key:
                return known[1]
            text = read_regular(path, _MOST).decode("utf-8", "replace")
        except OSError:
            return None
        curve = thinned(text, n_most, first_step)
        self._known[path, n_most] = key, curve
        return curve


def thinned(text: str, n_most: int, first_step: int = 0) -> Curve | None:
    """Curve of a history.csv; rows that are damaged, or whose step is not after the one before, are
    left out.
    """
    head, _, body = text.partition("\n")
    names = head.strip().split(",")
    if not set(_COLUMNS) <= set(names):
        return None
    places = [names.index(name) for name in _COLUMNS]
    rows: list[tuple[float, ...]] = []
    before = first_step - 1.0
    for line in body.splitlines():
        cells = line.split(",")
        try:
            row = tuple(float(cells[place]) for place in places)
        except (ValueError, IndexError):
            continue
        if before < row[0] < _LAST and all(map(math.isfinite, row)):
            rows.append(row)
            before = row[0]
    if not rows or rows[-1][0] < 1:
        return None
    steps, losses = _means([row[0] for row in rows], [row[3] for row in rows], n_most)
    last, n_tokens, flops, _ = rows[-1]
    return Curve(steps=steps, losses=losses, flops=flops / last, n_tokens=n_tokens / last)


def _means(
    steps: list[float], losses: list[float], n_most: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Last step and mean loss of each of n_most bins of equal ratio that has a row."""
    first = max(1.0, steps[0])
    width = math.log(steps[-1] / first) / n_most or 1.0
    places: list[int] = []
    sums: list[list[float]] = []
    bins: list[int] = []
    for step, loss in zip(steps, losses, strict=True):
        number = min(n_most - 1, int(math.log(max(1.0, step) / first) / width))
        if not bins or number != bins[-1]:
            bins.append(number)
            places.append(0)
            sums.append([])
        places[-1] = int(step)
        sums[-1].append(loss)
    return tuple(places), tuple(sum(own) / len(own) for own in sums)
