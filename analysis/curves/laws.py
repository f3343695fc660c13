"""Laws of a whole loss curve under a schedule of the learning rate.

Each is L0 + A S1^-alpha less a term of what the falling rate gains; see Sums. The baseline is a
power of the steps alone, which sees no schedule. theta is what is fitted: L0, ln A, alpha, then the
term's own, with the rate in units of the highest peak. Reported are the papers' parameters, with
the rate as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.interpolate import CubicSpline

from analysis.curves.history import Sums
from analysis.fitting.intervals import Array

# theta (S, p) -> the law (S, n) and its derivatives (S, n, p), n being all runs' steps in a row
Law = Callable[[Array], tuple[Array, Array]]
_CHUNK = 2_000_000  # numbers of a term's array held at once


@dataclass(frozen=True, kw_only=True)
class Form:
    """A law. names, of the reported parameters; logs, of the names whose theta is a logarithm.

    own: the box of the term's theta, (lower, upper) each, and starts, a few values each. term: from
    the sums of some runs to the term's value and derivatives by its own theta. needs_decay: the
    term is not identifiable from runs whose rate never falls.
    """

    name: str
    title: str
    form: str
    names: tuple[str, ...]
    own: tuple[tuple[float, float], ...]
    starts: tuple[tuple[float, ...], ...]
    term: Callable[[Sequence[Sums]], Law] | None = None
    needs_decay: bool = False

    def law(self, sums: Sequence[Sums]) -> Law:
        """L of all runs' steps in a row."""
        ln_s1 = self.abscissa(sums)
        term = self.term(sums) if self.term is not None else None

        def evaluate(theta: Array) -> tuple[Array, Array]:
            alpha = theta[:, 2:3]
            power = np.exp(theta[:, 1:2] - alpha * ln_s1)
            value = theta[:, :1] + power
            parts = [np.ones_like(power), power, -power * ln_s1]
            jacobian = np.stack(parts, axis=2)
            if term is not None:
                gain, by = term(theta[:, 3:])
                value, jacobian = value - gain, np.concatenate([jacobian, -by], axis=2)
            return value, jacobian

        return evaluate

    def abscissa(self, sums: Sequence[Sums]) -> Array:
        """ln S1 of all runs' steps in a row; of the baseline ln of the step."""
        of = [one.step if self is STEPS else one.forward for one in sums]
        return np.log(np.concatenate(of))

    def box(self, loss: Array, longest: float) -> tuple[Array, Array]:
        """lower and upper (p,). longest: of memories. L0 is below the lowest loss where nothing is
        taken off again, and below the highest else.
        """
        highest = loss.max() if self.needs_decay else loss.min()
        lower = [0.0, -30.0, 0.02, *(low for low, _ in self.own)]
        upper = [float(highest), 60.0, 4.0, *(high for _, high in self.own)]
        if self is ANNEALING:
            upper[4] = np.log(longest)
        return np.array(lower), np.array(upper)

    def begin(self, loss: Array, ln_s1: Array) -> Array:
        """Where descents begin, (S, p): A is the one that goes through the middle loss."""
        found = []
        middle, lowest = np.median(loss), loss.min()
        for share, alpha, *own in product((0.0, 0.5, 0.85), (0.2, 0.5, 1.0), *self.starts):
            level = share * lowest
            ln_a = np.log(middle - level) + alpha * np.median(ln_s1)
            found.append([level, ln_a, alpha, *own])
        return np.array(found)

    def reported(self, theta: Array, unit: float) -> Array:
        """Papers' parameters of theta (S, p); unit: of the rate."""
        found = theta.copy()
        found[:, 1] = np.exp(theta[:, 1] + theta[:, 2] * (0.0 if self is STEPS else np.log(unit)))
        if self is ANNEALING:
            found[:, 3] = theta[:, 3] / unit
            found[:, 4] = 1 - np.exp(-theta[:, 4])
        if self is MULTI_POWER:
            found[:, 3] = theta[:, 3] / unit
            found[:, 4] = np.exp(theta[:, 4] + (theta[:, 6] - 1) * np.log(unit))
        return found


def _annealing(sums: Sequence[Sums]) -> Law:
    """C S2, by C and ln(1 / (1 - lambda)): S2 is a cubic spline through its grid of memories."""
    splines = [CubicSpline(np.log(one.memories), one.momentum, axis=0) for one in sums]

    def evaluate(own: Array) -> tuple[Array, Array]:
        scale, memory = own[:, :1], own[:, 1]
        s2 = np.concatenate([spline(memory) for spline in splines], axis=1)
        by_memory = np.concatenate([spline(memory, 1) for spline in splines], axis=1)
        return scale * s2, np.stack([s2, scale * by_memory], axis=2)

    return evaluate


def _multi_power(sums: Sequence[Sums]) -> Law:
    """B sum_k drop_k (1 - (1 + C rate_k^-gamma S_k)^-beta), by B, ln C, beta and gamma; S_k is the
    sum of the rate since the drop.
    """

    def evaluate(own: Array) -> tuple[Array, Array]:
        cost = max(1, max(one.forward.size * max(1, one.drops.size) for one in sums))
        size = max(1, _CHUNK // cost)
        parts = []
        for i in range(0, len(own), size):
            of_runs = [_drops(one, own[i : i + size]) for one in sums]
            parts.append([np.concatenate(arrays, axis=1) for arrays in zip(*of_runs, strict=True)])
        value, jacobian = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return value, jacobian

    return evaluate


def _drops(sums: Sums, own: Array) -> tuple[Array, Array]:
    """Term of one run, (S, n), and its derivatives, (S, n, 4)."""
    scale, ln_c, beta, gamma = (own[:, i, None, None] for i in range(4))
    since = np.maximum(0.0, sums.forward[:, None] - sums.at)
    ln_to = np.log(sums.to)
    x = np.exp(ln_c - gamma * ln_to) * since
    ln_1x = np.log1p(x)
    rest = np.exp(-beta * ln_1x)
    by_x = beta * rest / (1 + x) * x  # by ln x
    gain = (1 - rest) @ sums.drops
    by = [by_x @ sums.drops, (ln_1x * rest) @ sums.drops, (by_x * -ln_to) @ sums.drops]
    factor = scale[:, :, 0]
    return factor * gain, np.stack([gain, *(factor * part for part in by)], axis=2)


STEPS = Form(
    name="steps",
    title="steps alone, the baseline",
    form="L = L0 + A s^-alpha",
    names=("L0", "A", "alpha"),
    own=(),
    starts=(),
)
ANNEALING = Form(
    name="annealing",
    title="annealing (Tissue 2024, arXiv:2408.11029)",
    form="L = L0 + A S1^-alpha - C S2",
    names=("L0", "A", "alpha", "C", "lambda"),
    own=((0.0, np.inf), (np.log(2.0), np.inf)),
    starts=((1e-4, 1e-3), tuple(np.log([10.0, 100.0, 1000.0]))),
    term=_annealing,
    needs_decay=True,
)
MULTI_POWER = Form(
    name="multi-power",
    title="multi-power (Luo 2025, arXiv:2503.12811)",
    form="L = L0 + A S1^-alpha - B sum_k (r_(k-1) - r_k) (1 - (1 + C r_k^-gamma S_k)^-beta)",
    names=("L0", "A", "alpha", "B", "C", "beta", "gamma"),
    own=((0.0, 50.0), (-18.0, 9.0), (0.02, 4.0), (0.0, 3.0)),
    starts=((0.3,), tuple(np.log([1e-2, 1e-1])), (0.5,), (0.3, 0.8)),
    term=_multi_power,
    needs_decay=True,
)
FORMS = {form.name: form for form in (ANNEALING, MULTI_POWER, STEPS)}
