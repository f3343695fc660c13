"""Which parameters of a law the runs identify: refused before a fit, or named after it."""

from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Minima, Model, condition_number
from analysis.fitting.status import FitError, FitStatus, Warnings
from analysis.laws.law import APART, Law, Start, Variables

_FEW_STARTS = 0.2  # share that reached the best value
_COUNTED = {
    "N": "sizes",
    "E": "numbers of experts",
    "D": "token counts (or one)",
    "G": "granularities",
    "S": "sparsities",
}
_CALLED = {"N": "N", "E": "E", "D": "D", "G": "G", "S": "(1 - S)"}
_FOLLOWS = 1e-4  # share of a variable's own variance, below which the others give it
_FIXED_RATIO = 0.99  # correlation of ln N and ln D
_SINGULAR = 1e8  # condition number of a Jacobian with a direction that changes nothing
_PART = 0.3  # of a direction of length one: a parameter that has such a part in it


def refuse(law: Law, at: Variables, fixed: tuple[str, ...]) -> None:
    """Raises FitError where the runs, whatever their losses, do not identify the parameters.

    Too few runs or distinct values; and of laws that `tell`, a variable that follows from the
    others. The message names the parameters.
    """
    n, n_free = len(at.N), len(law.names) - len(fixed)
    if n <= n_free:
        raise FitError(f"{n} runs for the {n_free} parameters of {law.name}")
    least = dict(law.distinct)
    for letter, names in law.left_out.items():
        if set(names) <= set(fixed):  # what this variable does is part of the other parameters
            least |= {"E": n_free} if letter == "N" else {letter: 1}
    numbers = {letter: _n_distinct(law, letter, getattr(at, letter)) for letter in least}
    few = [
        f"{k} {_COUNTED[letter]}, not {numbers[letter]}{_without(law, [letter])}"
        for letter, k in least.items()
        if numbers[letter] < k
    ]
    if few:
        raise FitError(f"{law.name} needs {' and '.join(few)}")
    if law.tells:
        _refuse_collinear(law, at)


def _n_distinct(law: Law, letter: str, values: Array) -> int:
    """How many; for the laws that `tell`, sizes and token counts a tenth apart.

    Runs of one shape and budget have slightly different ones, by their keys and routers, and no
    exponent is identifiable from these.
    """
    found = np.unique(values)
    if not law.tells or letter not in "ND":
        return len(found)
    count, last = 0, 0.0
    for value in found:
        if value >= last * np.exp(APART) * (1 - 1e-9):
            count, last = count + 1, value
    return count


def _without(law: Law, letters: list[str]) -> str:
    names = [name for letter in letters for name in law.tells.get(letter, ())]
    if not names:
        return ""
    one = len(names) == 1
    return f" ({' and '.join(names)} {'is' if one else 'are'} not identifiable)"


def _refuse_collinear(law: Law, at: Variables) -> None:
    logs = {letter: at.log(letter) for letter in law.tells}
    least = {"N": APART, "D": APART}  # less is no variation: see _n_distinct
    varying = {k: v - v.mean() for k, v in logs.items() if np.ptp(v) > least.get(k, 1e-9)}
    follow = []
    for letter, own in varying.items():
        others = [v for k, v in varying.items() if k != letter]
        if others:
            design = np.stack(others, axis=1)
            solved, *_ = np.linalg.lstsq(design, own, rcond=None)
            rest = own - design @ solved
            if rest @ rest < _FOLLOWS * (own @ own):
                follow.append(letter)
    if follow:
        names = " and ".join(f"ln {_CALLED[letter]}" for letter in follow)
        apart = " or ".join(_CALLED[letter] for letter in follow)
        raise FitError(
            f"{names} of these runs follow from each other{_without(law, follow)}; "
            f"vary {apart} at a fixed value of the others"
        )


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Lowest of a law's minima on given runs, and what is not identified there."""

    law: Law
    at: Variables
    model: Model
    box: Start
    fixed: tuple[str, ...]
    minima: Minima
    share: float

    @property
    def theta(self) -> Array:
        return self.minima.theta[self.minima.best]

    @property
    def hit(self) -> np.ndarray:
        """Which parameters stopped at the edge of the box, without those that are fixed.

        Where a parameter is not identifiable its gradient is rounding: the edge itself is looked at
        too.
        """
        edge = (self.theta <= self.box.lower + 1e-9) | (self.theta >= self.box.upper - 1e-9)
        return (edge | self.minima.at_bound[self.minima.best]) & (self.box.lower < self.box.upper)

    @property
    def at_top(self) -> np.ndarray:
        """Whether each is nearer to its upper bound."""
        return self.theta > (self.box.lower + self.box.upper) / 2

    @property
    def nothing(self) -> dict[str, tuple[str, ...]]:
        """Coefficients that stopped at their lower bound -> the parameters without effect then."""
        low = dict(zip(self.law.names, self.hit & ~self.at_top, strict=True))
        return {name: idle for name, idle in self.law.terms.items() if low[name]}

    @property
    def idle(self) -> set[str]:
        return {name for names in self.nothing.values() for name in names}

    @property
    def free(self) -> np.ndarray:
        """Parameters that could be elsewhere: not fixed, at a bound, or without effect."""
        could = (self.box.lower < self.box.upper) & ~self.hit
        return could & ~np.isin(self.law.names, list(self.idle))

    @property
    def condition(self) -> float:
        """Jacobian's, over the parameters that are free."""
        free = self.free

        def of_free(theta: Array) -> tuple[Array, Array]:
            value, jacobian = self.model(theta)
            return value, jacobian[:, :, free]

        return condition_number(of_free, self.theta)

    def refuse_singular(self, condition: float) -> None:
        """Raises FitError, of laws that `tell`, where some direction changes no run."""
        if self.law.tells and condition > _SINGULAR:
            raise FitError(
                f"{self.law.name} has a continuum of equally good fits to these runs: "
                f"{' and '.join(self._weakest())} are not identifiable"
            )

    def _weakest(self) -> list[str]:
        """Parameters that move together along the direction that the runs identify least."""
        free = self.free
        jacobian = self.model(self.theta[None])[1][0][:, free]
        length = np.linalg.norm(jacobian, axis=0)
        direction = np.linalg.svd(jacobian / np.where(length > 0, length, 1.0))[2][-1]
        names = np.array(self.law.names)[free]
        return [name for name, part in zip(names, direction) if abs(part) > _PART]

    def warned(self, condition: float) -> Warnings:
        """Warnings that follow from the optimum itself."""
        warned, best = Warnings(), self.minima.best
        self._warn_of_bounds(warned)
        if self.law.tells and self.fixed:
            warned.add(
                f"one token count: {' and '.join(self.fixed)} are not identifiable and were not "
                "fitted; what tokens do is part of the other parameters"
            )
        if not self.minima.converged[best]:
            text = f"the descent did not converge: gradient {self.minima.gradient[best]:.1e}"
            warned.add(text, FitStatus.MAX_ITER)
        design = self._design()
        if design:
            warned.add(design)
        elif condition > self.law.condition_limit:
            weakest = f", {' and '.join(self._weakest())} above all,"
            warned.add(
                f"the parameters{weakest if self.law.tells else ''} are hardly identifiable from "
                f"these runs (condition number {condition:.3g}): other values fit as well; see the "
                "intervals"
            )
        if self.share < _FEW_STARTS:
            starts = len(self.minima.value)
            warned.add(f"only {self.share:.0%} of {starts} starts reached the best value")
        return warned

    def _warn_of_bounds(self, warned: Warnings) -> None:
        nothing, idle = self.nothing, self.idle
        rows = zip(self.law.names, self.theta, self.at_top, self.hit, strict=True)
        for name, value, top, hit in rows:
            if name in nothing:
                one = len(nothing[name]) == 1
                warned.add(
                    f"{name} is at its bound: its term does not matter to these runs, and "
                    f"{' and '.join(nothing[name])} {'is' if one else 'are'} not identifiable",
                    FitStatus.BOUND_HIT,
                )
            elif hit and name not in idle:
                text = self.law.at_bound.get((name, bool(top)), f"{name} is at its bound")
                warned.add(text.format(value=value), FitStatus.BOUND_HIT)

    def _design(self) -> str:
        """Why a law in size and tokens alone is not identifiable, whatever the losses; or empty."""
        if not self.law.of_size_and_tokens:
            return ""
        n, d = self.at.log("N"), self.at.log("D")
        for name, values in (("sizes", n), ("token counts", d)):
            if np.ptp(values) < 1e-9:
                return f"all {name} are the same: its exponent is not identifiable"
        r = float(np.corrcoef(n, d)[0, 1])
        if abs(r) <= _FIXED_RATIO:
            return ""
        what = "tokens per parameter are" if r > 0 else "the budget is"
        return (
            f"ln N and ln D are collinear (r = {r:.4f}): {what} nearly fixed, and what each does "
            "is not identifiable; vary N at each D"
        )
