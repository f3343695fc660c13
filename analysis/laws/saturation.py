"""Clark's effective number of experts, which starts above one and saturates.

Clark 2022 (arXiv:2202.01169), eq. 2; Ludziejewski 2025 (arXiv:2502.05172) takes it over.
"""

import numpy as np

from analysis.fitting.intervals import Array

KAPPA = (np.log(1e-3), np.log(1e6))  # the box of ln kappa
CAP = (np.log(1.01), np.log(1e9))  # and of ln E_max
KAPPA_STARTS = np.log([0.7, 1.5, 3.0, 6.0, 15.0, 60.0])
CAP_STARTS = np.log([20.0, 80.0, 300.0, 1e3, 1e4, 1e6])

_START = "E_start ran to its bound: it is not identifiable from these runs"
AT_BOUND = {
    ("E_start", False): _START,
    ("E_start", True): _START,
    ("E_max", False): "E_max stopped at its lower bound: saturated at once, so it is not "
    "identifiable from these runs",
    ("E_max", True): "E_max ran to its bound: no saturation is seen in these runs",
}


def effective_experts(E: Array, E_start: float, E_max: float) -> Array:
    """Clark's saturated number: E_start at one expert, E_max at infinitely many."""
    return 1 / (1 / (E - 1 + 1 / (1 / E_start - 1 / E_max)) + 1 / E_max)


def saturation(E: Array, log_kappa: Array, log_max: Array) -> tuple[Array, Array, Array]:
    """ln E_hat (S, n) and its derivatives by ln kappa and ln E_max, (S, 1) or (S, n) each;
    kappa = E_hat(1) less the cap.

    1/kappa = 1/E_start - 1/E_max: both parameters are then free of each other.
    """
    kappa, top = np.exp(log_kappa), np.exp(log_max)
    u = E - 1 + kappa
    hat = 1 / (1 / u + 1 / top)
    return np.log(hat), hat * kappa / u**2, hat / top


def start_and_max(log_kappa: Array, log_max: Array) -> tuple[Array, Array]:
    """E_start and E_max, as reported."""
    return 1 / (np.exp(-log_kappa) + np.exp(-log_max)), np.exp(log_max)
