"""Abnar's law in size, tokens and sparsity: Abnar 2025 (arXiv:2501.12370)."""

from analysis.laws.powers import sum_of_powers

LAW = sum_of_powers(
    name="sparsity",
    formula="L = a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma) + e",
    source="Abnar 2025 (arXiv:2501.12370), whose N counts all parameters",
    names=("e", "a", "b", "c", "d", "alpha", "beta", "lambda", "delta", "gamma"),
    variables="NDS",
    terms={
        "e": (),
        "a": (("alpha", "N"),),
        "b": (("beta", "D"),),
        "c": (("lambda", "S"),),
        "d": (("delta", "S"), ("gamma", "N")),
    },
    exponents={
        "alpha": (1e-3, 3.0, (0.1, 0.25, 0.6)),
        "beta": (1e-3, 3.0, (0.15, 0.3, 0.5)),
        "lambda": (-2.0, 3.0, (-0.5, -0.15, 0.2)),
        "delta": (-3.0, 3.0, (-0.2, 0.15, 0.4)),
        "gamma": (1e-3, 3.0, (0.08, 0.2, 0.4)),
    },
    idle={"a": ("alpha",), "b": ("beta",), "c": ("lambda",), "d": ("delta", "gamma")},
    distinct={"N": 3, "D": 3, "S": 3},
    left_out={"D": ("b", "beta")},
    tells={"N": ("alpha", "gamma"), "D": ("beta", "b"), "S": ("lambda", "delta")},
)
