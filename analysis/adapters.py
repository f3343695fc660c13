"""Cost of choosing adapters at run time: comparisons of `experiments.library compare`,
one file a seed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.comparison import Comparison, Table, noise_warnings, shown
from analysis.fitting.intervals import Estimate, mean_by_t
from analysis.fitting.text import pluralize
from analysis.table.checks import MAX_LOSS, MIN_LOSS
from experiments.system.json_files import read_json
from experiments.system.plain_text import printable

_BASE, _OWN, _MIXED = "base", "own", "mixed"  # experiments.adapters.compare's names
_FIELDS = {"losses", "adapters", "unseen"}
_NAMES = {
    _BASE: "no adapter",
    _OWN: "the oracle's",
    "uniform": "mean of all",
    "arrow": "Arrow",
    "token": "keys, each token by itself",
    "learned": "learned keys",
    "single": "one LoRA on all",
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to choose, over the n_seeds that it was scored on. nats/token.

    own: the loss on the adapters' domains, minus that of the oracle, who names the domain. mixed:
    the same on texts whose domain changes in the middle. unseen: the loss on domains of no adapter,
    minus that of the base.
    """

    way: str
    n_seeds: int
    own: Estimate
    mixed: Estimate
    unseen: Estimate


@dataclass(frozen=True, kw_only=True)
class Later:
    """An adapter that came to a library in use. gain: on its domain. left: what its own domain
    still lacks of the oracle's. others: the change of the loss on all other text. equal: whether
    each other adapter's own outputs were the same to the bit.
    """

    name: str
    gain: Estimate
    left: Estimate
    others: Estimate
    equal: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Libraries(Comparison):
    """Ways to choose among the same adapters, the nearest to the oracle first.

    loss: of the oracle on its domains, mean of the seeds. level: of the intervals, Student's t over
    the seeds of each way by itself.
    """

    adapters: tuple[str, ...]
    unseen: tuple[str, ...]
    n_seeds: int
    level: float
    loss: float
    ways: tuple[Way, ...]
    later: Later | None

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.of_table, *noise_warnings(self.n_seeds - 1, "one seed"))

    def tables(self) -> list[Table]:
        notes = [
            f"nats/token, means of {pluralize(self.n_seeds, 'seed')} with {self.level:.0%} "
            f"intervals over seeds; the oracle's loss is {self.loss:.4f}"
        ]
        if self.later is not None:
            same = "the same to the bit" if self.later.equal else "NOT the same"
            notes.append(
                f"{self.later.name}, added to the library in use: gains {shown(self.later.gain)} "
                f"on its domain, {shown(self.later.left)} from its oracle; all other text changes "
                f"by {shown(self.later.others)}; outputs of each other adapter are {same}"
            )
        head = (
            f"{len(self.adapters)} adapters: {', '.join(self.adapters)}; unseen: "
            f"{', '.join(self.unseen)}"
        )
        return [
            Table(rows=self.ways, shown=_SHOWN, named=", minus the base", head=[head], notes=notes)
        ]


_SHOWN = (
    "chosen by=way, seeds=n_seeds, minus the oracle=own|signed, domain changes=mixed|signed, "
    "unseen{}=unseen|signed"
)


def compare_libraries(folder: Path | str, *, level: float = 0.95) -> Libraries:
    """Reads every comparison (*.json with losses) in a folder, one a seed.

    Raises ValueError for none, for one that is damaged, and for comparisons of other adapters or
    other unseen domains.
    """
    folder = Path(folder)
    found = {path: _read(path) for path in sorted(folder.glob("*.json"))}
    reports = [report for report in found.values() if report is not None]
    if not reports:
        raise ValueError(
            f"{folder} has no comparison; python -m experiments.library compare writes them"
        )
    first = reports[0]
    texts = [json.dumps(report["losses"], sort_keys=True) for report in reports]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{folder} has one comparison twice, of the same losses; keep one of them")
    if len({bool(report.get("later")) for report in reports}) > 1:
        raise ValueError(
            f"{folder} has comparisons with a later adapter and without; keep one kind"
        )
    for name in ("adapters", "unseen"):
        if any(report[name] != first[name] for report in reports):
            raise ValueError(f"{folder} has comparisons of different {name}; keep one kind")
    adapters, unseen = first["adapters"], first["unseen"]
    laters = {(one["name"], *sorted(one["without"])) for r in reports if (one := r.get("later"))}
    if len(laters) > 1:
        raise ValueError(f"{folder} has comparisons of different later adapters; keep one kind")

    def find_way(way: str) -> Way:
        scored = [report for report in reports if way in report["losses"]]

        def minus(other: str, texts: Sequence[str]) -> Estimate:
            differences = [_mean(r, way, texts) - _mean(r, other, texts) for r in scored]
            return mean_by_t(np.array(differences), level)

        return Way(
            way=printable(_name(way)),
            n_seeds=len(scored),
            own=minus(_OWN, adapters),
            mixed=minus(_OWN, [_MIXED]),
            unseen=minus(_BASE, unseen),
        )

    names = dict.fromkeys(way for report in reports for way in report["losses"])
    ways = [find_way(way) for way in names if way != _OWN]
    return Libraries(
        adapters=tuple(adapters),
        unseen=tuple(unseen),
        n_seeds=len(reports),
        level=level,
        loss=float(np.mean([_mean(report, _OWN, adapters) for report in reports])),
        ways=tuple(sorted(ways, key=lambda way: way.own.value)),
        later=_later(reports, level),
    )


def has_comparison(folder: Path) -> bool:
    """Whether a file of the folder is a comparison, damaged or not."""
    for path in folder.glob("*.json") if folder.is_dir() else ():
        try:
            report = read_json(path, object)
        except (OSError, ValueError):
            continue
        if isinstance(report, dict) and set(report) >= _FIELDS:
            return True
    return False


def _later(reports: Sequence[Mapping[str, Any]], level: float) -> Later | None:
    later = [report["later"] for report in reports if report.get("later")]
    if not later:
        return None
    name = later[0]["name"]
    others = [text for text in later[0]["without"] if text != name]

    def estimate(of: Callable[[Mapping[str, Any]], float]) -> Estimate:
        return mean_by_t(np.array([of(one) for one in later]), level)

    return Later(
        name=name,
        gain=estimate(lambda one: one["without"][name] - one["with"][name]),
        left=estimate(lambda one: one["with"][name] - one["own"]),
        others=estimate(
            lambda one: float(np.mean([one["with"][o] - one["without"][o] for o in others]))
        ),
        equal=all(one["equal"] for one in later),
    )


def _read(path: Path) -> dict[str, Any] | None:
    """None for a file of something else."""
    try:
        report = read_json(path, object)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}); write it again") from None
    if not isinstance(report, dict) or not set(report) >= _FIELDS:
        return None
    try:
        _check(report)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is not a comparison as experiments.library compare writes it ({why}); move it "
            "away, or make it again"
        ) from None
    return report


def _check(report: Mapping[str, Any]) -> None:
    """Raises one of several errors for a report without a number that is taken from it."""
    adapters, unseen = (list(map(str, report[name])) for name in ("adapters", "unseen"))
    if adapters != report["adapters"] or unseen != report["unseen"] or not adapters:
        raise ValueError("adapters and unseen must be lists of names")
    if len({*adapters, *unseen, _MIXED}) < len(adapters) + len(unseen) + 1:
        raise ValueError("adapters and unseen must name each text once, and none may be 'mixed'")
    needed = [(_OWN, _MIXED), *((_OWN, name) for name in adapters)]
    needed += [(_BASE, name) for name in unseen]
    for way in report["losses"]:
        needed += [(way, name) for name in (*adapters, _MIXED, *(unseen if way != _OWN else ()))]
    for way, name in needed:
        _check_loss(report["losses"][way][name], f"losses.{way}.{name}")
    if later := report.get("later"):
        _check_loss(later["own"], "later.own")
        for side in ("with", "without"):
            for name in (str(later["name"]), *later["without"]):
                _check_loss(later[side][name], f"later.{side}.{name}")
        if not set(later["without"]) - {later["name"]}:
            raise ValueError("later.without must have other texts than the adapter's")
        if not isinstance(later["equal"], bool):
            raise ValueError(f"later.equal must be true or false, and is {later['equal']!r}")


def _check_loss(value: object, where: str) -> None:
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else np.nan
    if not MIN_LOSS <= number <= MAX_LOSS:
        raise ValueError(
            f"{where} must be nats per token, above 0 and {MAX_LOSS:g} at most, and is "
            f"{str(value)[:40]!r}"
        )


def _mean(report: Mapping[str, Any], way: str, texts: Sequence[str]) -> float:
    losses = report["losses"][way]
    return float(np.mean([losses[text] for text in texts])) if texts else float("nan")


def _name(way: str) -> str:
    if way.endswith(" tokens"):
        return f"keys, evidence of {way}"
    return _NAMES.get(way, way)
