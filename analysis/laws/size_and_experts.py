"""Laws of a size and a number of experts: the number itself, or Clark's, which saturates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model
from analysis.laws.law import Centre, Law, Start, Variables, held
from analysis.laws.saturation import AT_BOUND, CAP, KAPPA, saturation, start_and_max


@dataclass(frozen=True, kw_only=True)
class SizeAndExperts:
    """A law in n, the `log` of N less its mean over the runs, and e, that of the number of experts.

    value: theta (S, p), n (n,) and e (n,) or (S, n) -> ln L (S, n), its derivatives by theta
    (S, n, p), and by ln of that number (S, n). starts: n, e and the loss, (n,), and whether N has
    one value -> rows of theta. box: of the loss, (2, p). natural and at_bound: as of Law. idle: the
    names that are not fitted where N has one value. logs: as of Law.
    """

    names: tuple[str, ...]
    value: Callable[[Array, Array, Array], tuple[Array, Array, Array]]
    starts: Callable[[Array, Array, Array, bool], list[list[float]]]
    box: Callable[[Array], Array]
    natural: Callable[[Array, Centre], Array]
    idle: tuple[str, ...]
    logs: tuple[str, ...] = ()
    at_bound: Mapping[tuple[str, bool], str] = field(default_factory=dict)
    log: Callable[[Array], Array] = np.log  # or np.log10

    def _size(self, at: Variables, centre: Centre) -> Array:
        return self.log(at.N) - centre["N"] / self._unit

    @property
    def _unit(self) -> float:
        """ln of the logarithm's base."""
        return float(1 / self.log(np.array([np.e]))[0])

    def law(self, **law: Any) -> Law:
        """Law in the number E itself. law: the other fields of Law."""

        def model(at: Variables, centre: Centre) -> Model:
            n, e = self._size(at, centre), self.log(at.E)
            return lambda theta: self.value(theta, n, e)[:2]

        def start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
            rows = self.starts(self._size(at, centre), self.log(at.E), loss, bool(fixed))
            lower, upper = held(self.names, fixed, self.box(loss))
            return Start(starts=np.array(rows), lower=lower, upper=upper)

        return Law(
            names=self.names,
            variables="NE",
            model=model,
            start=start,
            natural=self.natural,
            logs=self.logs,
            distinct={"E": 2},
            left_out={"N": self.idle},
            at_bound=self.at_bound,
            **law,
        )

    def saturated(self, kappas: Array, caps: Array, every: int = 1, **law: Any) -> Law:
        """Law in Clark's E'. Starts: every so many of `starts` at each kappa and E_max."""
        names = (*self.names, "E_start", "E_max")

        def model(at: Variables, centre: Centre) -> Model:
            n = self._size(at, centre)

            def of(theta: Array) -> tuple[Array, Array]:
                ln_e, by_kappa, by_max = saturation(at.E, theta[:, -2:-1], theta[:, -1:])
                value, jacobian, by_e = self.value(theta[:, :-2], n, ln_e / self._unit)
                more = np.stack([by_e * by_kappa, by_e * by_max], axis=-1)
                return value, np.concatenate([jacobian, more], axis=-1)

            return of

        def start(at: Variables, centre: Centre, loss: Array, fixed: tuple[str, ...]) -> Start:
            n = self._size(at, centre)
            rows: list[list[float]] = []
            for pair in product(kappas, caps):
                e = saturation(at.E, *(np.array([[v]]) for v in pair))[0][0] / self._unit
                rows += [[*row, *pair] for row in self.starts(n, e, loss, bool(fixed))[::every]]
            box = np.hstack([self.box(loss), np.array([KAPPA, CAP]).T])
            lower, upper = held(names, fixed, box)
            return Start(starts=np.array(rows), lower=lower, upper=upper)

        def natural(theta: Array, centre: Centre) -> Array:
            ends = start_and_max(theta[:, -2], theta[:, -1])
            return np.column_stack([self.natural(theta[:, :-2], centre), *ends])

        return Law(
            names=names,
            variables="NE",
            model=model,
            start=start,
            natural=natural,
            logs=(*self.logs, "E_start", "E_max"),
            distinct={"E": 4},
            left_out={"N": self.idle},
            at_bound={**self.at_bound, **AT_BOUND},
            **law,
        )
