"""Values that a search draws from: `log(2e-3, 4e-2)`, `uniform(0, .2)`, `int(1, 4)`,
`log_int(64, 4096)`, or a list of values.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # of the extra [search]
    from optuna.distributions import BaseDistribution

Value = float | int | str | bool | None
DIGITS = 4  # significant, of a drawn number: run ids stay readable, and no rate is known better
_RANGE = re.compile(r"(log|uniform|int|log_int)\(([^,()]+),([^,()]+)\)")
_FORMS = "write log(2e-3, 4e-2), uniform(0, 1), int(1, 4), log_int(64, 4096) or a list of values"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Values of one key of the config. text: as it was given. ends: the lowest and the highest
    value of a range, or all values of a list, for which kind is choice.
    """

    name: str
    text: str
    kind: str
    ends: tuple[Value, ...]

    def distribution(self) -> "BaseDistribution":
        """As Optuna has it."""
        from optuna import distributions as of

        if self.kind == "choice":
            return of.CategoricalDistribution(self.ends)
        low, high = self._range()
        log = self.kind.startswith("log")
        whole = self.kind.endswith("int")
        if whole:
            return of.IntDistribution(int(low), int(high), log)
        return of.FloatDistribution(low, high, log)

    def rounded(self, value: Any) -> Any:
        """A drawn value to DIGITS significant digits, in the range."""
        if self.kind not in ("log", "uniform"):
            return value
        low, high = self._range()
        return min(max(float(f"{value:.{DIGITS}g}"), low), high)

    def checked(self, value: Any) -> Any:
        """A value that the grid gives. Raises ValueError for one that could not be drawn."""
        if not self._is_drawable(value):
            raise ValueError(
                f"hydra.sweeper.search: {self.name}={value} of the grid is to be tried first, and "
                f"is not in {self.text}"
            )
        return float(value) if self.kind in ("log", "uniform") else value

    def _is_drawable(self, value: Any) -> bool:
        if self.kind == "choice":
            return value in self.ends
        low, high = self._range()
        kind = int if self.kind.endswith("int") else int | float
        return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high

    def place(self, value: Any) -> float | None:
        """Where a value is in the range, from 0 to 1 on its own scale; None of a list."""
        if self.kind == "choice":
            return None
        scale = math.log if self.kind.startswith("log") else float
        low, high = map(scale, self._range())
        return (scale(value) - low) / (high - low)

    def _range(self) -> tuple[float, float]:
        low, high = self.ends
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        return low, high

    def override(self, value: Value) -> str:
        """Hydra's override for a value: the number that is read back is this one.

        Raises ValueError for one that could not be drawn: a journal may be anybody's.
        """
        if not self._is_drawable(value):
            raise ValueError(f"{self.name}={value!r} of the search's journal is not in {self.text}")
        if value is None or isinstance(value, bool):
            text = {None: "null", True: "true", False: "false"}[value]
        else:
            text = repr(value) if isinstance(value, float) else str(value)
        return f"{self.name}={text}"


def read_spaces(search: Any) -> dict[str, Space]:
    """Spaces of hydra.sweeper.search, by key. Raises ValueError for one that can't be drawn."""
    if not isinstance(search, Mapping) or not search:
        raise ValueError(
            f"hydra.sweeper.search={search} must be a group of keys, as "
            "{ladder.lr: 'log(2e-3, 4e-2)'}"
        )
    return {str(name): _space(str(name), value) for name, value in search.items()}


def _space(name: str, value: Any) -> Space:
    given = f"hydra.sweeper.search: {name}={value}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return Space(name=name, text=str(list(value)), kind="choice", ends=_choices(given, value))
    found = _RANGE.fullmatch(re.sub(r"\s", "", str(value)))
    if found is None:
        raise ValueError(f"{given} is no range; {_FORMS}")
    kind, whole = found[1], found[1].endswith("int")
    try:
        low, high = (int(t) if whole else float(t) for t in found.groups()[1:])
    except ValueError:
        what = "whole numbers" if whole else "numbers"
        raise ValueError(f"{given} needs two {what}; {_FORMS}") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{given} has an end that is not finite; give two finite numbers")
    if not low < high:
        raise ValueError(f"{given} is empty: {low:g} is not below {high:g}; give the lower first")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"{given} has no logarithm at {low:g}; give ends above 0")
    return Space(name=name, text=str(value), kind=kind, ends=(low, high))


def _choices(given: str, values: Sequence[Any]) -> tuple[Value, ...]:
    for value in values:
        if not isinstance(value, float | int | str | bool | None):
            raise ValueError(f"{given}: {value} is not a single value")
        if isinstance(value, str) and not re.fullmatch(r"[\w.+-]+", value):
            raise ValueError(f"{given}: {value!r} is not a plain word or number")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{given}: {value} is not finite")
    if len(set(map(str, values))) < max(2, len(values)):
        raise ValueError(f"{given} must have two values or more, each once")
    return tuple(values)
