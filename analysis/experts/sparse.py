"""Laws in size, tokens and how sparse a model is, that are sums of powers of these.

N is a size, E the number of experts, D tokens, G granularity, S the sparsity: the share of the
experts that a token does not use.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from analysis.experts.form import APART, NOTHING, Form, Problem, Runs, project
from analysis.fitting.intervals import Array
from analysis.fitting.power_sum import power_sum

_LOW, _HIGH = -9.2, 40.0  # ln of a term's share of the lowest loss: 1e-4 counts as nothing
_STARTS = 48  # of the grid, those nearest to the losses


@dataclass(frozen=True, kw_only=True)
class SumOfPowers:
    """L = the sum of its terms; a term is its coefficient times powers of the variables.

    terms: coefficient -> (exponent, variable) pairs. The factor is variable^-exponent, where the
    variable S stands for 1 - S. boxes: exponent -> lowest, highest, and the values to start from.
    """

    names: tuple[str, ...]
    terms: Mapping[str, tuple[tuple[str, str], ...]]
    boxes: Mapping[str, tuple[float, float, tuple[float, ...]]]

    def log_loss(
        self,
        p: Array,
        N: Array,
        E: Array,
        D: Array | None,
        G: Array | None,
        S: Array | None = None,
    ) -> Array:
        """ln L by the reported parameters (..., p)."""
        given = {"N": N, "E": E, "D": D, "G": G, "S": None if S is None else 1 - S}
        total: Array = np.zeros(())
        for coefficient, powers in self.terms.items():
            term = p[..., self.names.index(coefficient)]
            for exponent, letter in powers:
                value = given[letter]
                assert value is not None, letter
                term = term * value ** -p[..., self.names.index(exponent)]
            total = total + term
        return np.log(total)

    def pose(self, runs: Runs) -> Problem:
        """theta: ln of each term at the mean of the ln of the variables, and the exponents."""
        logs = {"N": runs.N, "E": runs.E, "D": runs.D, "G": runs.G, "S": 1 - runs.S}
        centres = {letter: float(np.log(v).mean()) for letter, v in logs.items()}
        centred = {letter: np.log(v) - centres[letter] for letter, v in logs.items()}
        same_tokens = bool(np.ptp(centred["D"]) < APART)  # then b/D^beta is part of the constant
        k, n = len(self.names), len(runs.loss)

        designs = []
        for coefficient, powers in self.terms.items():
            design = np.zeros((n, k))
            design[:, self.names.index(coefficient)] = 1.0
            for exponent, letter in powers:
                design[:, self.names.index(exponent)] -= centred[letter]
            designs.append(design)

        top = float(np.log(runs.loss.min()))
        box = np.zeros((2, k))
        for j, name in enumerate(self.names):
            if name in self.terms:
                box[:, j] = top + _LOW, top + (_HIGH if self.terms[name] else 0.0)
            else:
                box[:, j] = self.boxes[name][:2]
        fixed = ("b", "beta") if same_tokens else ()
        if same_tokens:
            box[:, self.names.index("b")] = top + NOTHING
            box[:, self.names.index("beta")] = 0.0
        return Problem(
            model=power_sum(designs),
            starts=self._starts(designs, runs.loss, box, fixed),
            lower=box[0],
            upper=box[1],
            fixed=fixed,
            natural=lambda theta: self._natural(theta, centres, fixed),
        )

    def _natural(self, theta: Array, centres: Mapping[str, float], fixed: tuple[str, ...]) -> Array:
        found = theta.copy()
        for coefficient, powers in self.terms.items():
            j = self.names.index(coefficient)
            for exponent, letter in powers:
                found[:, j] += theta[:, self.names.index(exponent)] * centres[letter]
            found[:, j] = 0.0 if coefficient in fixed else np.exp(found[:, j])
        return found

    def _starts(
        self, designs: list[Array], loss: Array, box: Array, fixed: tuple[str, ...]
    ) -> Array:
        """For a grid of exponents the coefficients >= 0 of relative least squares; the best."""
        exponents = [name for name in self.names if name not in self.terms]
        grids = [(0.0,) if name in fixed else self.boxes[name][2] for name in exponents]
        grid = np.array(list(product(*grids)))
        at = [self.names.index(name) for name in exponents]
        on = [j for j, name in enumerate(self.terms) if name not in fixed]
        columns = np.stack([np.exp(grid @ designs[j][:, at].T) for j in on], axis=1)
        solved, misfit = project(columns, loss)
        best = np.argsort(misfit, kind="stable")[:_STARTS]
        starts = np.zeros((len(best), len(self.names)))
        starts[:, at] = grid[best]
        coefficients = list(self.terms)
        for column, j in zip(solved[best].T, on, strict=True):
            i = self.names.index(coefficients[j])
            starts[:, i] = np.log(np.maximum(column, np.exp(box[0, i])))
        return starts


_OF_SIZE = (0.05, 0.1, 0.2, 0.35, 0.6)

_GRANULARITY = SumOfPowers(
    names=("c", "g", "a", "b", "alpha", "beta", "gamma", "delta"),
    terms={
        "c": (),
        "g": (("alpha", "N"), ("gamma", "G"), ("delta", "E")),
        "a": (("alpha", "N"), ("delta", "E")),
        "b": (("beta", "D"),),
    },
    boxes={
        "alpha": (1e-3, 3.0, _OF_SIZE),
        "beta": (1e-3, 3.0, _OF_SIZE),
        "gamma": (1e-3, 4.0, (0.3, 0.6, 1.2)),
        "delta": (-2.0, 3.0, (0.0, 0.05, 0.2)),
    },
)

_SPARSITY = SumOfPowers(
    names=("e", "a", "b", "c", "d", "alpha", "beta", "lambda", "delta", "gamma"),
    terms={
        "e": (),
        "a": (("alpha", "N"),),
        "b": (("beta", "D"),),
        "c": (("lambda", "S"),),
        "d": (("delta", "S"), ("gamma", "N")),
    },
    boxes={
        "alpha": (1e-3, 3.0, (0.1, 0.25, 0.6)),
        "beta": (1e-3, 3.0, (0.15, 0.3, 0.5)),
        "lambda": (-2.0, 3.0, (-0.5, -0.15, 0.2)),
        "delta": (-3.0, 3.0, (-0.2, 0.15, 0.4)),
        "gamma": (1e-3, 3.0, (0.08, 0.2, 0.4)),
    },
)

SPARSE = (
    Form(
        name="granularity_experts",
        formula="L = c + (g/G^gamma + a)/(N^alpha E^delta) + b/D^beta",
        source="Krajewski 2024 (arXiv:2402.07871) fits the granularity law at each expansion rate "
        "apart; the power of E that joins them is ours",
        names=_GRANULARITY.names,
        needs=("n_experts", "n_tokens", "granularity"),
        distinct={"N": 3, "E": 2, "D": 3, "G": 3},
        pose=_GRANULARITY.pose,
        log_loss=_GRANULARITY.log_loss,
        tells={
            "N": ("alpha", "a"),
            "E": ("delta",),
            "D": ("beta", "b"),
            "G": ("gamma", "g"),
        },
        terms={"g": ("gamma",), "b": ("beta",)},
    ),
    Form(
        name="sparsity",
        formula="L = a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma) + e",
        source="Abnar 2025 (arXiv:2501.12370), whose N counts all parameters",
        names=_SPARSITY.names,
        needs=("n_tokens", "sparsity"),
        distinct={"N": 3, "D": 3, "S": 3},
        pose=_SPARSITY.pose,
        log_loss=_SPARSITY.log_loss,
        tells={
            "N": ("alpha", "gamma"),
            "D": ("beta", "b"),
            "S": ("lambda", "delta"),
        },
        terms={"a": ("alpha",), "b": ("beta",), "c": ("lambda",), "d": ("delta", "gamma")},
    ),
)
