"""A pre-registration, read from a file: data alone, which nothing evaluates."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from analysis import numbers
from analysis.contrast.curves import CENTRES, CURVATURES
from analysis.contrast.noise import SOURCES
from analysis.contrast.pairs import Pair
from analysis.contrast.points import XS
from analysis.contrast.settings import Settings
from analysis.settings import setting
from experiments.system.regular_files import read_regular

Kind = Literal["difference", "equivalence", "multiplier", "slope"]
# kind -> what may refute it, of its interval
KINDS: Mapping[str, tuple[str, ...]] = {
    "difference": ("holds 0", "above 0", "below 0"),
    "equivalence": ("beyond margin",),
    "multiplier": ("holds 1", "above 1", "below 1"),
    "slope": ("holds 0", "above 0", "below 0"),
}
_FIT = ("x", "centres", "curvature", "errors")
_KNOWN = ("about", "layers", "budgets", "where", "classes", *_FIT, "level", "rates", "primaries",
          "stop")  # fmt: skip
# What a file fixes of compute_contrasts' arguments, and what holds where it says nothing
_UNSAID = {"x": None, "rates": None} | {
    name: getattr(Settings(), name) for name in (*_FIT[1:], "classes", "level")
}
_LINES = ("layers", "baselines")  # arguments that choose which other differences are shown
_OF_PRIMARY = (
    "name", "kind", "layer", "baseline", "budgets", "margin", "targets", "family", "refuted_if",
)  # fmt: skip
TARGETS = ("all", "repeated", "new", "seen", "neither")
_CHOICES = {"x": XS, "centres": CENTRES, "curvature": CURVATURES, "errors": SOURCES}
_SAME = 1e-6
_MOST = 100_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Primary:
    """A registered contrast. budgets: FLOPs, whose mean counts, or that a slope is over; margin: of
    an equivalence, nats; targets: those whose losses count (training/by_document.py); family: of
    Holm's correction; refuted_if: one of KINDS[kind].
    """

    name: str
    kind: Kind
    layer: str
    baseline: str
    budgets: tuple[float, ...]
    margin: float | None
    targets: str
    family: str
    refuted_if: str

    @property
    def pair(self) -> Pair:
        return Pair(layer=self.layer, baseline=self.baseline, budgets=self.budgets)


@dataclass(frozen=True, kw_only=True)
class StopAt:
    """A rule to stop by the width of a difference in nats, or at the most seeds of a size."""

    layer: str
    baseline: str
    budget: float
    half_width: float
    most: int | None

    @property
    def pair(self) -> Pair:
        return Pair(layer=self.layer, baseline=self.baseline, budgets=(self.budget,))


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A pre-registration. sha256: of the file; layers, budgets: the design, and nothing else is
    fitted; where: column -> values of its runs; fit: compute_contrasts' arguments that it names.
    """

    path: str
    sha256: str
    about: str
    layers: tuple[str, ...]
    budgets: tuple[float, ...]
    where: Mapping[str, tuple[str, ...]]
    fit: Mapping[str, Any]
    primaries: tuple[Primary, ...]
    stop: StopAt | None

    def arguments(self, asked: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Arguments of compute_contrasts, and in words those that were asked for, not registered.

        What the file does not say has its default, which nothing moves, but for rates: they add an
        error to all intervals, and a file of an older version could not name them. None and () are
        not asked for. Raises ValueError for any other argument that the file does not have.
        """
        how, moved = {**_UNSAID, **self.fit}, []
        for name, value in asked.items():
            if value is None or (isinstance(value, list | tuple) and not value):
                continue
            if name in _LINES:
                how[name] = value
            elif name == "rates" and how[name] is None:
                how[name] = value
                moved.append(f"rates {value}")
            elif name in self.fit and not _alike(value, how[name]):
                raise ValueError(
                    f"{setting(name, value)} is not what {self.path} registered: {how[name]!r}"
                )
            elif name not in self.fit and (name not in how or value != how[name]):
                default = f", so it is {how[name]!r}" if how.get(name) else ""
                raise ValueError(
                    f"{setting(name, value)} is not registered in {self.path}{default}; leave "
                    "it out, or the registration"
                )
        return how, tuple(moved)


def _alike(value: Any, registered: Any) -> bool:
    """Whether two arguments are one: classes whatever their order, paths as they are written."""
    if isinstance(value, Mapping) and isinstance(registered, Mapping):
        return {k: set(v) for k, v in value.items()} == {k: set(v) for k, v in registered.items()}
    return bool(value == registered or (registered is not None and str(value) == str(registered)))


class _Loader(yaml.SafeLoader):
    """Without anchors, which a few lines can make huge, and without keys that occur twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"key {key!r} is no text")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"key {key!r} occurs more than once")
        return super().construct_mapping(node, deep)


def read_registration(path: Path) -> Registered:
    """Raises ValueError in one line for what is unknown or no value of its kind, OSError for a file
    that can't be read.
    """
    content = read_regular(path, _MOST)
    try:
        found = yaml.load(content, _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no yaml of a pre-registration: {error}") from None
    try:
        return _registered(path, content, found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _registered(path: Path, content: bytes, found: Any) -> Registered:
    found = _mapping(found, "the file", _KNOWN, ("layers", "budgets", "primaries"))
    layers = _texts(found["layers"], "layers")
    budgets = _budgets(found["budgets"], "budgets", None)
    where = {
        name: _texts(values, f"where {name}")
        for name, values in _mapping(found.get("where", {}), "where").items()
    }
    fit: dict[str, Any] = {}
    for name in _FIT:
        if name in found:
            fit[name] = _require_one(found[name], name, _CHOICES[name])
    if "rates" in found:
        fit["rates"] = _text(found["rates"], "rates")
    if "classes" in found:
        fit["classes"] = {
            name: _known(_texts(members, f"class {name}"), f"class {name}", layers)
            for name, members in _mapping(found["classes"], "classes").items()
        }
    if "level" in found:
        fit["level"] = _number(found["level"], "level")
        if not fit["level"] < 1:
            raise ValueError(f"level={found['level']!r} must be between 0 and 1, e.g. 0.95")
    primaries = found["primaries"]
    if not isinstance(primaries, list) or not primaries:
        raise ValueError("primaries must be a list of one or more")
    read = [_primary(one, i + 1, layers, budgets) for i, one in enumerate(primaries)]
    names = [one.name for one in read]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"primary {name!r} occurs more than once: give each a name")
    stop = found.get("stop")
    return Registered(
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        about=_text(found.get("about", "none given"), "about"),
        layers=layers,
        budgets=budgets,
        where=where,
        fit=fit,
        primaries=tuple(read),
        stop=None if stop is None else _stop(stop, layers, budgets),
    )


def _primary(given: Any, place: int, layers: Sequence[str], budgets: Sequence[float]) -> Primary:
    needs = ("name", "kind", "layer", "baseline", "budgets", "refuted_if")
    own = _mapping(given, f"primary {place}", _OF_PRIMARY, needs)
    name = _text(own["name"], f"primary {place}: name")
    of = f"primary {name!r}"
    kind = _require_one(own["kind"], f"{of}: kind", tuple(KINDS))
    pair = [_known((_text(own[role], f"{of}: {role}"),), f"{of}: {role}", layers)[0]
            for role in ("layer", "baseline")]  # fmt: skip
    if pair[0] == pair[1]:
        raise ValueError(f"{of}: layer and baseline are both {pair[0]!r}")
    at = _budgets(own["budgets"], f"{of}: budgets", budgets)
    if kind == "slope" and len(at) < 2:
        raise ValueError(f"{of}: a slope needs two budgets or more")
    if kind == "multiplier" and len(at) > 1:
        raise ValueError(f"{of}: a multiplier is at one budget; a slope is over several")
    if (kind == "equivalence") != ("margin" in own):
        raise ValueError(f"{of}: margin is of an equivalence, and an equivalence needs one")
    return Primary(
        name=name,
        kind=kind,
        layer=pair[0],
        baseline=pair[1],
        budgets=at,
        margin=_number(own["margin"], f"{of}: margin") if "margin" in own else None,
        targets=_require_one(own.get("targets", "all"), f"{of}: targets", TARGETS),
        family=_text(own.get("family", "primary"), f"{of}: family"),
        refuted_if=_require_one(own["refuted_if"], f"{of}: refuted_if", KINDS[kind]),
    )


def _stop(given: Any, layers: Sequence[str], budgets: Sequence[float]) -> StopAt:
    needs = ("layer", "baseline", "budget", "half_width")
    own = _mapping(given, "stop", (*needs, "most"), needs)
    pair = [_known((_text(own[role], f"stop: {role}"),), f"stop: {role}", layers)[0]
            for role in ("layer", "baseline")]  # fmt: skip
    most = own.get("most")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 2):
        raise ValueError(f"stop: most={most!r} must be a number of seeds, 2 or more")
    return StopAt(
        layer=pair[0],
        baseline=pair[1],
        budget=_budgets([own["budget"]], "stop: budget", budgets)[0],
        half_width=_number(own["half_width"], "stop: half_width"),
        most=most,
    )


def _mapping(
    value: Any, what: str, known: Sequence[str] | None = None, needs: Sequence[str] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be keys with values, not {value!r:.60}")
    for key in value:
        if known is not None and key not in known:
            raise ValueError(f"{what}: key {key!r} is unknown; known are {', '.join(known)}")
    for key in needs:
        if key not in value:
            raise ValueError(f"{what} has no {key}")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what}={value!r:.60} must be a text")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts, or of numbers as texts: --where takes both."""
    plain = [str(v) if isinstance(v, int | float) and not isinstance(v, bool) else v for v in value
             ] if isinstance(value, list) else value  # fmt: skip
    if not isinstance(plain, list) or not plain:
        raise ValueError(f"{what} must be a list of one or more, not {value!r:.60}")
    texts = tuple(_text(one, what) for one in plain)
    if len(set(texts)) < len(texts):
        raise ValueError(f"{what}: one occurs more than once")
    return texts


def _require_one(value: Any, what: str, known: Sequence[str]) -> Any:
    if value not in known:
        raise ValueError(f"{what}={value!r:.60} is not one of {', '.join(known)}")
    return value


def _known(values: tuple[str, ...], what: str, layers: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if value not in layers:
            raise ValueError(f"{what}: {value!r} is none of layers: {', '.join(layers)}")
    return values


def _number(value: Any, what: str) -> float:
    """A number above 0. Texts too: yaml takes 1e14, without a point, for one."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise ValueError(f"{what}={value!r:.60} must be a finite number above 0")
    return number


def _budgets(value: Any, what: str, design: Sequence[float] | None) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} must be a list of FLOPs, not {value!r:.60}")
    found = [_number(one, what) for one in value]
    if design is not None:
        near = [next((b for b in design if abs(one / b - 1) < _SAME), None) for one in found]
        for one, budget in zip(found, near, strict=True):
            if budget is None:
                have = ", ".join(map(numbers.flops, design))
                raise ValueError(f"{what}: {numbers.flops(one)} is none of budgets: {have}")
        found = [budget for budget in near if budget is not None]
    if len(set(found)) < len(found):
        raise ValueError(f"{what}: one occurs more than once")
    return tuple(found)
