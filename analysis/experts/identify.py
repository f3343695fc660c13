"""What runs identify of a law's parameters: refused before a fit, or named after it."""

import numpy as np

from analysis.experts.form import APART, Form, Problem, Runs
from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Minima, condition_number
from analysis.fitting.status import FitError, FitStatus, Warnings

_FEW_STARTS = 0.2  # share that reached the best value, as for the parametric surface
# Condition number: 24 to 55 on Clark's runs (105 with two sizes only), 110 at most on clean grids
# of sizes and experts and 230 of granularity; 360 to 40,000 where the experts are 8 at most, 64 at
# least, or 4 to 7, where Clark's saturation is not identifiable
_COLLINEAR = 1e3
_COUNTED = {
    "N": "sizes",
    "E": "numbers of experts",
    "D": "token counts (or one)",
    "G": "granularities",
    "S": "sparsities",
}
_CALLED = {"N": "N", "E": "E", "D": "D", "G": "G", "S": "(1 - S)"}
_FOLLOWS = 1e-4  # share of a variable's own variance, below which the others give it
_SINGULAR = 1e8  # condition number of a Jacobian with a direction that changes nothing
_PART = 0.3  # of a direction of length one: a parameter that has such a part in it

_START = "E_start ran to its bound: it is not identifiable from these runs"
_AT_BOUND = {  # (name, at its upper bound) -> what that says
    ("E_start", False): _START,
    ("E_start", True): _START,
    ("E_max", False): "E_max stopped at its lower bound: saturated at once, so it is not "
    "identifiable from these runs",
    ("E_max", True): "E_max ran to its bound: no saturation is seen in these runs",
    ("L0", False): "L0 stopped at 0: an irreducible loss is not identifiable from these runs",
    (
        "L0",
        True,
    ): "L0 stopped at the lowest loss: an irreducible loss is not identifiable from these runs",
}


def refuse_few(model: str, spec: Form, problem: Problem, runs: Runs) -> None:
    """Raises FitError where the runs, whatever their losses, do not identify the parameters.

    Too few runs or distinct values; and of laws in several variables, one that follows from the
    others. The message names the parameters.
    """
    n, n_free = len(runs.loss), len(spec.names) - len(problem.fixed)
    if n <= n_free:
        raise FitError(f"{model}: {n} runs for the {n_free} parameters of {spec.name}")
    least = dict(spec.distinct)
    if "a" in problem.fixed:  # one size: the experts alone identify all of them
        least["E"] = n_free
    if "beta" in problem.fixed:  # one token count: its powers are part of the other parameters
        least["D"] = 1
    numbers = {letter: _n_distinct(spec, letter, getattr(runs, letter)) for letter in least}
    few = [
        f"{k} {_COUNTED[letter]}, not {numbers[letter]}{_without(spec, [letter])}"
        for letter, k in least.items()
        if numbers[letter] < k
    ]
    if few:
        raise FitError(f"{model}: {spec.name} needs {' and '.join(few)}")
    if spec.tells:
        _refuse_collinear(model, spec, runs)


def _n_distinct(spec: Form, letter: str, values: Array) -> int:
    """How many; for the laws in several variables, sizes and token counts a tenth apart.

    Runs of one shape and budget have slightly different ones, by their keys and routers, and no
    exponent is identifiable from these.
    """
    found = np.unique(values)
    if not spec.tells or letter not in "ND":
        return len(found)
    count, last = 0, 0.0
    for value in found:
        if value >= last * np.exp(APART) * (1 - 1e-9):
            count, last = count + 1, value
    return count


def _without(spec: Form, letters: list[str]) -> str:
    names = [name for letter in letters for name in spec.tells.get(letter, ())]
    if not names:
        return ""
    one = len(names) == 1
    return f" ({' and '.join(names)} {'is' if one else 'are'} not identifiable)"


def _refuse_collinear(model: str, spec: Form, runs: Runs) -> None:
    logs = {
        letter: np.log(1 - runs.S if letter == "S" else getattr(runs, letter))
        for letter in spec.tells
    }
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
            f"{model}: {names} of these runs follow from each other{_without(spec, follow)}; "
            f"vary {apart} at a fixed value of the others"
        )


def _bounds_hit(problem: Problem, minima: Minima) -> np.ndarray:
    """Which parameters stopped at the edge of the box, without those that are fixed.

    Where a parameter is not identifiable its gradient is rounding: the edge itself is looked at
    too.
    """
    theta = minima.theta[minima.best]
    edge = (theta <= problem.lower + 1e-9) | (theta >= problem.upper - 1e-9)
    return (edge | minima.at_bound[minima.best]) & (problem.lower < problem.upper)


def _nothing(spec: Form, problem: Problem, minima: Minima) -> dict[str, tuple[str, ...]]:
    """Coefficients that stopped at their lower bound -> the parameters without effect then."""
    hit, theta = _bounds_hit(problem, minima), minima.theta[minima.best]
    at = {name: spec.names.index(name) for name in spec.terms}
    low = theta < (problem.lower + problem.upper) / 2
    return {name: spec.terms[name] for name, j in at.items() if hit[j] and low[j]}


def _free(spec: Form, problem: Problem, minima: Minima) -> np.ndarray:
    """The parameters that could be elsewhere: not fixed, not at a bound, not without effect."""
    free = (problem.lower < problem.upper) & ~_bounds_hit(problem, minima)
    idle = {name for names in _nothing(spec, problem, minima).values() for name in names}
    return free & ~np.isin(spec.names, list(idle))


def condition_of(spec: Form, problem: Problem, minima: Minima) -> float:
    """Of the Jacobian at the optimum, over the parameters that are free to move."""
    free = _free(spec, problem, minima)

    def of_free(theta: Array) -> tuple[Array, Array]:
        value, jacobian = problem.model(theta)
        return value, jacobian[:, :, free]

    return condition_number(of_free, minima.theta[minima.best])


def refuse_singular(
    model: str, spec: Form, problem: Problem, minima: Minima, condition: float
) -> None:
    """Raises FitError, of laws in several variables, where some direction changes no run."""
    if spec.tells and condition > _SINGULAR:
        raise FitError(
            f"{model}: {spec.name} has a continuum of equally good fits to these runs: "
            f"{' and '.join(_weakest(spec, problem, minima))} are not identifiable"
        )


def _weakest(spec: Form, problem: Problem, minima: Minima) -> list[str]:
    """The parameters that move together along the direction that the runs identify least."""
    free = _free(spec, problem, minima)
    jacobian = problem.model(minima.theta[minima.best][None])[1][0][:, free]
    length = np.linalg.norm(jacobian, axis=0)
    direction = np.linalg.svd(jacobian / np.where(length > 0, length, 1.0))[2][-1]
    return [name for name, part in zip(np.array(spec.names)[free], direction) if abs(part) > _PART]


def find_warnings(
    spec: Form, problem: Problem, minima: Minima, share: float, condition: float
) -> Warnings:
    """Warnings that follow from the optimum itself."""
    warned, best = Warnings(), minima.best
    at_top = minima.theta[best] > (problem.lower + problem.upper) / 2
    nothing = _nothing(spec, problem, minima)
    idle = {name for names in nothing.values() for name in names}
    for name, top, hit in zip(spec.names, at_top, _bounds_hit(problem, minima), strict=True):
        if name in nothing:
            warned.add(
                f"{name} is at its bound: its term does not matter to these runs, and "
                f"{' and '.join(nothing[name])} {'is' if len(nothing[name]) == 1 else 'are'} not "
                "identifiable",
                FitStatus.BOUND_HIT,
            )
        elif hit and name not in idle:
            text = _AT_BOUND.get((name, bool(top)), f"{name} is at its bound")
            warned.add(text, FitStatus.BOUND_HIT)
    if spec.tells and problem.fixed:
        warned.add(
            f"one token count: {' and '.join(problem.fixed)} are not identifiable and were not "
            "fitted; what tokens do is part of the other parameters"
        )
    if not minima.converged[best]:
        text = f"the descent did not converge: gradient {minima.gradient[best]:.1e}"
        warned.add(text, FitStatus.MAX_ITER)
    if condition > _COLLINEAR:
        weakest = f", {' and '.join(_weakest(spec, problem, minima))} above all,"
        warned.add(
            f"the parameters{weakest if spec.tells else ''} are hardly identifiable from these "
            f"runs (condition number {condition:.3g}): other values fit as well; see the intervals"
        )
    if share < _FEW_STARTS:
        warned.add(f"only {share:.0%} of {len(minima.value)} starts reached the best value")
    return warned
