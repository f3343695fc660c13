"""Chinchilla's law with alpha = beta = 2 eta: Gadre 2024 (arXiv:2403.08540).

At M tokens a parameter it is the frontier of its own compute.
"""

import numpy as np

from analysis.laws.powers import sum_of_powers

LAW = sum_of_powers(
    name="over_trained",
    formula="L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6ND",
    source="Gadre 2024 (arXiv:2403.08540): Chinchilla's with alpha = beta = 2 eta",
    names=("E", "a", "b", "eta"),
    variables="ND",
    terms={  # M^eta C^-eta = (6 N^2)^-eta, and M^-eta C^-eta = (6 D^2)^-eta
        "E": (),
        "a": (("eta", 6.0), ("eta", "N"), ("eta", "N")),
        "b": (("eta", 6.0), ("eta", "D"), ("eta", "D")),
    },
    exponents={"eta": (0.01, 2.0, tuple(np.geomspace(0.02, 0.6, 24).tolist()))},
    condition_limit=3e3,  # as of chinchilla
)
