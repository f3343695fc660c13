"""Ways to go on learning, compared where they have learnt as much.

A way that learns less forgets less, so its forgetting says little by itself. A stream is an order
of domains and a seed. A way's runs on one stream, at several learning rates, are a curve of
forgetting, and of the loss on the base corpus, against learning. It is straight between two rates,
and read at equal learning. Nothing is extrapolated. A stream with a single rate is moved along the
curves that the way has on other streams, by their mean change between the two amounts of learning.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.comparison import Comparison, Table
from analysis.fitting.intervals import Array, Estimate, mean_by_t
from analysis.forgetting.ways import find_way, read_metrics, read_order
from experiments.records.record import RunRecord

LOSSES = ("forgetting", "base")
LESS = tuple(f"{name}_less" for name in LOSSES)
BY_ORDER = tuple(f"{name}_by_order" for name in LESS)
Stream = tuple[int, tuple[str, ...]]  # a seed and an order


@dataclass(frozen=True, kw_only=True)
class AtLearning:
    """A way where it has learnt as much as others. In bits per byte, means over streams.

    n_streams: those with a value; n_moved: of these, those that were moved along another's curve.
    forgetting_less, base_less: minus the baseline's on the same streams, n_shared of them.
    by_order: the mean of an order's streams is one value, for these have the same domains last.
    """

    way: str
    n_streams: int
    n_moved: int
    n_shared: int
    forgetting: Estimate
    base: Estimate
    forgetting_less: Estimate
    base_less: Estimate
    forgetting_less_by_order: Estimate
    base_less_by_order: Estimate


@dataclass(frozen=True, kw_only=True, repr=False)
class EqualLearning(Comparison):
    """Ways at `learning` bits/byte learnt, with intervals at `level` over streams.

    baseline: the way that differences are from, "" for none; skipped: ways without a value, with
    why.
    """

    level: float
    learning: float
    baseline: str
    ways: tuple[AtLearning, ...]
    skipped: tuple[str, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        single = [at.way for at in self.ways if at.n_streams < 2]
        alone = [f"at equal learning, one stream alone: {'; '.join(single)}"] if single else []
        return (*self.of_table, *alone)

    def tables(self) -> list[Table]:
        notes = [
            f"baseline: {self.baseline}, on the same streams; by order: the mean of an order's "
            "streams is one value, and the interval is over orders of the domains"
        ] if self.baseline else []  # fmt: skip
        notes += [f"no value: {text}" for text in self.skipped]
        head = f"where each has learnt {self.learning:.3g} bits/byte"
        columns = ["way", "streams=n_streams", "moved=n_moved"]
        columns += [f"{name}|signed" for name in LOSSES]
        if self.baseline:
            columns += [f"{name} - baseline={name}_less|signed" for name in LOSSES]
            columns += [f"{name} - baseline{{}}={name}_less_by_order|signed" for name in LOSSES]
        shown = ", ".join(columns)
        return [Table(rows=self.ways, shown=shown, named=", by order", head=[head], notes=notes)]


def compare_at_learning(
    records: Iterable[RunRecord],
    *,
    level: float = 0.95,
    learning: float | None = None,
    baseline: str | None = None,
) -> EqualLearning:
    """Compares runs that learnt a stream, where all have learnt `learning` bits/byte.

    learning: by default the amount, of those that a run has learnt, at which most ways have a
    value, and of several the largest. baseline: a way; by default full fine-tuning, of the model
    with most streams.

    Raises ValueError without a run of several domains, for a baseline that is no way, and for an
    amount that no way has learnt.
    """
    curves = _curves(records)
    if not curves:
        raise ValueError("no run has learnt several domains, so none can forget one for another")
    if learning is None:
        learning = _most_shared(curves)
    if baseline is not None and baseline not in curves:
        raise ValueError(f"baseline={baseline!r} is not one of {'; '.join(curves)}")
    baseline = baseline or _plain(curves)
    values = {way: _at(own, learning) for way, own in curves.items()}
    if not any(values.values()):
        most = max(float(c[:, 0].max()) for own in curves.values() for c in own.values())
        raise ValueError(f"learning={learning:g}: no way has learnt that; the most is {most:.3g}")
    reference = values.get(baseline, {})
    return EqualLearning(
        level=level,
        learning=learning,
        baseline=baseline if reference else "",
        ways=tuple(
            _compared(way, found, curves[way], reference, learning, level)
            for way, found in values.items()
            if found
        ),
        skipped=tuple(
            f"{way} learns {_range(curves[way])}" for way, found in values.items() if not found
        ),
    )


def _curves(records: Iterable[RunRecord]) -> dict[str, dict[Stream, Array]]:
    """way -> stream -> (n, 3): learning, forgetting and base at rates that learn more and more."""
    groups: dict[str, dict[Stream, list[tuple[float, ...]]]] = {}
    for record in records:
        metrics, order = read_metrics(record), tuple(read_order(record))
        if len(order) == 1:
            continue  # its base is that after one domain
        row = (record.lr, metrics["learning"], *(metrics[name] for name in LOSSES))
        stream = (record.seed, order)
        groups.setdefault(find_way(record), {}).setdefault(stream, []).append(row)
    return {
        way: {stream: _rising(rows) for stream, rows in sorted(own.items())}
        for way, own in sorted(groups.items())
    }


def _rising(rows: Sequence[tuple[float, ...]]) -> Array:
    """By rate, without those that learn no more than a smaller one: they only forget more."""
    kept: list[tuple[float, ...]] = []
    for _, *row in sorted(rows):
        if not kept or row[0] > kept[-1][0]:
            kept.append(tuple(row))
    return np.array(kept, dtype=np.float64)


def _read(curve: Array, learning: float) -> Array | None:
    """Forgetting and base at this much learning; None where the curve does not reach."""
    if not curve[0, 0] <= learning <= curve[-1, 0]:
        return None
    return np.array([np.interp(learning, curve[:, 0], curve[:, i]) for i in (1, 2)])


def _at(own: Mapping[Stream, Array], learning: float) -> dict[Stream, Array]:
    """Each stream's values at this much learning, where it has one."""
    found = {}
    for stream, curve in own.items():
        value = _read(curve, learning)
        if value is None and len(curve) == 1:
            changes = [_change(other, float(curve[0, 0]), learning) for other in own.values()]
            known = [change for change in changes if change is not None]
            value = curve[0, 1:] + np.mean(known, axis=0) if known else None
        if value is not None:
            found[stream] = value
    return found


def _change(curve: Array, start: float, end: float) -> Array | None:
    before, after = _read(curve, start), _read(curve, end)
    return None if before is None or after is None else after - before


def _most_shared(curves: Mapping[str, Mapping[Stream, Array]]) -> float:
    amounts = {float(x) for own in curves.values() for curve in own.values() for x in curve[:, 0]}
    return max(amounts, key=lambda x: (sum(bool(_at(own, x)) for own in curves.values()), x))


def _plain(curves: Mapping[str, Mapping[Stream, Array]]) -> str:
    """Full fine-tuning without anything to keep the old, of the model with most streams."""
    plain = [way for way in curves if ", " not in way]
    return max(plain, key=lambda way: (len(curves[way]), way), default="")


def _compared(
    way: str,
    found: Mapping[Stream, Array],
    own: Mapping[Stream, Array],
    reference: Mapping[Stream, Array],
    learning: float,
    level: float,
) -> AtLearning:
    values = np.stack(list(found.values()))
    shared = [stream for stream in found if stream in reference]
    less = np.stack([found[s] - reference[s] for s in shared]) if shared else np.empty((0, 2))
    forgetting, base = (mean_by_t(values[:, i], level) for i in (0, 1))
    orders = sorted({order for _, order in shared})
    of_order = [less[[order == s[1] for s in shared]].mean(axis=0) for order in orders]
    by_order = np.reshape(of_order, (-1, 2))
    return AtLearning(
        way=way,
        n_streams=len(found),
        n_moved=sum(_read(own[stream], learning) is None for stream in found),
        n_shared=len(shared),
        forgetting=forgetting,
        base=base,
        **{name: mean_by_t(less[:, i], level) for i, name in enumerate(LESS)},
        **{name: mean_by_t(by_order[:, i], level) for i, name in enumerate(BY_ORDER)},
    )


def _range(own: Mapping[Stream, Array]) -> str:
    """From the least to the most that a stream of the way learns."""
    ends = [curve[i, 0] for curve in own.values() for i in (0, -1)]
    return f"{min(ends):+.3g} to {max(ends):+.3g}"
