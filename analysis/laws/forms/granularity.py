"""Granularity law: Krajewski 2024 (arXiv:2402.07871), eq. 9 of He 2024 (arXiv:2407.04153)."""

from analysis.laws.powers import nearest, sum_of_powers

_OF_SIZE = (1e-3, 3.0, (0.05, 0.1, 0.2, 0.4, 0.8))

LAW = sum_of_powers(
    name="granularity",
    formula="L = c + (g/G^gamma + a)/N^alpha + b/D^beta",
    source="Krajewski 2024 (arXiv:2402.07871), eq. 9 of He 2024 (arXiv:2407.04153)",
    names=("c", "g", "a", "b", "alpha", "beta", "gamma"),
    variables="NDG",
    terms={
        "c": (),
        "g": (("alpha", "N"), ("gamma", "G")),
        "a": (("alpha", "N"),),
        "b": (("beta", "D"),),
    },
    exponents={
        "alpha": _OF_SIZE,
        "beta": _OF_SIZE,
        "gamma": (1e-3, 4.0, (0.2, 0.5, 1.0, 1.7)),
    },
    chosen=nearest(100),  # all of the grid
    distinct={"N": 3, "D": 3, "G": 3},
    left_out={"D": ("b", "beta")},
)
