"""Granularity law and a power of the number of experts."""

from analysis.laws.powers import sum_of_powers

_OF_SIZE = (1e-3, 3.0, (0.05, 0.1, 0.2, 0.35, 0.6))

LAW = sum_of_powers(
    name="granularity_experts",
    formula="L = c + (g/G^gamma + a)/(N^alpha E^delta) + b/D^beta",
    source="Krajewski 2024 (arXiv:2402.07871) fits the granularity law at each expansion rate "
    "apart; the power of E that joins them is ours",
    names=("c", "g", "a", "b", "alpha", "beta", "gamma", "delta"),
    variables="NEDG",
    terms={
        "c": (),
        "g": (("alpha", "N"), ("gamma", "G"), ("delta", "E")),
        "a": (("alpha", "N"), ("delta", "E")),
        "b": (("beta", "D"),),
    },
    exponents={
        "alpha": _OF_SIZE,
        "beta": _OF_SIZE,
        "gamma": (1e-3, 4.0, (0.3, 0.6, 1.2)),
        "delta": (-2.0, 3.0, (0.0, 0.05, 0.2)),
    },
    idle={"g": ("gamma",), "b": ("beta",)},
    distinct={"N": 3, "E": 2, "D": 3, "G": 3},
    left_out={"D": ("b", "beta")},
    tells={"N": ("alpha", "a"), "E": ("delta",), "D": ("beta", "b"), "G": ("gamma", "g")},
)
