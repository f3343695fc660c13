"""Peak learning rate by a law that was fitted before: `optim.lr=law`.

The law is read from the fits that `python -m analysis rates` writes: ln lr* is linear in ln of its
columns, with a constant for each model. Its interval is Student's t of the fit's covariance.
"""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FARTHEST = 10.0  # a law is not applied where a value is this many times outside of its cells
ALONE = 6  # cells of one model: of fewer AICc chooses a constant, however the rates change
_LARGEST_LOG = 700.0  # exp of more is no float
_ROUNDING = 1e-9  # of a factor


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A value of a column that is outside of those of a law's cells, low to high, by a factor."""

    column: str
    value: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        return max(self.low / self.value, self.value / self.high)

    def __str__(self) -> str:
        cells = f"{self.low:.4g}" + (f" to {self.high:.4g}" if self.high > self.low else "")
        beyond = f"{self.factor:.3g} times outside of the law's cells ({cells})"
        return f"{self.column}={self.value:.4g} is {beyond}"


@dataclass(frozen=True, kw_only=True)
class LawRate:
    """A peak learning rate by a law. interval: 95 %; outside: the farthest first."""

    lr: float
    interval: tuple[float, float]
    law: str
    path: Path
    outside: tuple[Outside, ...]

    def describe(self) -> str:
        """Why it is this rate, in a line."""
        low, high = (f"{bound:.2e}" for bound in self.interval)
        text = f"{self.lr:.2e} (95 % {low} to {high}) by {self.law}, of {self.path}"
        return "; warning: ".join([text, *map(str, self.outside)])


@dataclass(frozen=True, kw_only=True)
class _Law:
    """ln lr* = theta . (1 for the model that it is and 0 for the others, ln of each column).

    ranges: of its cells, in every column that they have: one that this law leaves out, or that is
    the same in all of them, was not seen outside of them either.
    """

    label: str
    models: tuple[str, ...]
    columns: tuple[str, ...]
    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    dof: int
    ranges: Mapping[str, tuple[float, float]]

    @property
    def order(self) -> tuple[bool, int]:
        """Laws of few cells come last, those of fewer models first."""
        return (self.dof + len(self.theta) < ALONE, len(self.models))

    def words(self, model: str) -> str:
        """Law of peer, 0.0115 * d_model^-1.02."""
        constants, exponents = self.theta[: len(self.models)], self.theta[len(self.models) :]
        factors = [f"{math.exp(constants[self.models.index(model)]):.4g}"]
        factors += [f"{name}^{x:.3g}" for name, x in zip(self.columns, exponents, strict=True)]
        return f"the law of {model}, {' * '.join(factors)}"

    def outside(self, values: Mapping[str, float]) -> tuple[Outside, ...]:
        """Values that are outside of the cells, the farthest first."""
        found = [
            Outside(column=name, value=values[name], low=low, high=high)
            for name, (low, high) in self.ranges.items()
            if name in values
        ]
        beyond = [one for one in found if one.factor > 1 + _ROUNDING]
        return tuple(sorted(beyond, key=lambda one: -one.factor))

    def at(self, model: str, values: Mapping[str, float]) -> tuple[float, float]:
        """ln lr*, and half the width of its interval."""
        from scipy.stats import t  # few plans need it, and it takes as long as they

        row = [float(name == model) for name in self.models]
        row += [math.log(values[name]) for name in self.columns]
        variance = _dot(row, [_dot(row, line) for line in self.covariance])
        half = float(t.ppf(0.975, self.dof)) * math.sqrt(max(0.0, variance))
        return _dot(row, self.theta), half


def rate_by_law(path: Path, form: str | None, model: str, values: Mapping[str, float]) -> LawRate:
    """Rate of a model where the columns of a law have these values.

    form: the label of one that was compared, as "d_model + n_tokens"; None for the chosen one. A
    law of the model alone comes before one of several models if it is of ALONE cells or more.

    Raises ValueError for a file without such a law, for a column that `values` has not, and for a
    value more than FARTHEST times outside of the cells that the law was fitted to.
    """
    law = _find(path, form, model)
    absent = [name for name in law.columns if name not in values]
    if absent:
        raise ValueError(
            f"optim.law={path}: its law is of {', '.join(absent)}, and a plan knows "
            f"{', '.join(values)}; set optim.law_form to a law of these"
        )
    outside = law.outside(values)
    if outside and outside[0].factor > FARTHEST:
        raise ValueError(
            f"optim.lr=law: {outside[0]}, and {FARTHEST:g} times is allowed; give optim.lr a "
            "number, or fit a law to cells that are nearer"
        )
    log_rate, half = law.at(model, values)
    ends = (log_rate - half, min(log_rate + half, _LARGEST_LOG))
    return LawRate(
        lr=math.exp(log_rate),
        interval=(math.exp(ends[0]), math.exp(ends[1])),
        law=law.words(model),
        path=path,
        outside=outside,
    )


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def _find(path: Path, form: str | None, model: str) -> _Law:
    remedy = "give the rates.json that `python -m analysis rates TABLE --out FOLDER` writes"
    try:
        place = path.expanduser()
        laws = _laws(place, place.stat().st_mtime_ns)
    except FileNotFoundError:
        raise ValueError(f"optim.law={path} is not there; {remedy}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"optim.law={path} has no laws of rates ({error!r}); {remedy}") from None
    own = sorted((pair for pair in laws if model in pair[1].models), key=lambda p: p[1].order)
    if not own:
        models = sorted({name for _, law in laws for name in law.models})
        raise ValueError(
            f"optim.law={path} has no law of {model}, but of {', '.join(models) or 'none'}; "
            "give optim.lr a number, or another file"
        )
    label = own[0][0] if form is None else form
    found = [law for _, law in own if law.label == label]
    if not found:
        labels = dict.fromkeys(law.label for _, law in own)
        raise ValueError(
            f"optim.law_form={label} is not a law of {model} in {path}; it has {'; '.join(labels)}"
        )
    return found[0]


@functools.lru_cache(maxsize=4)  # each point of a sweep asks
def _laws(path: Path, changed: int) -> list[tuple[str, _Law]]:
    """All laws of a file of that date, each with the label of the one that was chosen."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no regular file")
    groups = json.loads(path.read_text())["forms"]
    return [
        (
            group["chosen"],
            _read(law, {k: v for other in group["laws"] for k, v in other["ranges"].items()}),
        )
        for group in groups
        for law in group["laws"]
    ]


def _read(node: Mapping[str, Any], ranges: Mapping[str, Any]) -> _Law:
    return _Law(
        label=str(node["label"]),
        models=tuple(node["models"]),
        columns=tuple(node["columns"]),
        theta=tuple(map(float, node["theta"])),
        covariance=tuple(tuple(map(float, line)) for line in node["covariance"]),
        dof=int(node["dof"]),
        ranges={name: (float(low), float(high)) for name, (low, high) in ranges.items()},
    )
