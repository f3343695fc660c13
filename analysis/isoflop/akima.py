"""Lowest point of a loss curve by Akima interpolation of the logarithms, as Porian 2024
(arXiv:2406.19146) has it: of many curves over the same sizes at once.
"""

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from analysis.fitting.intervals import Array

_GRID = 25  # points an interval between sizes


def akima_minimum(u: Array, losses: Array) -> tuple[Array, Array, np.ndarray]:
    """Lowest points (S,) of curves through losses (S, n) at u (n,), and whether at an end.

    Interpolates ln(loss); the lowest of a grid of 25 points an interval, as Porian's code.
    """
    grid = np.linspace(u[0], u[-1], _GRID * (len(u) - 1))
    values = Akima1DInterpolator(u, np.log(losses).T)(grid)
    lowest = values.argmin(axis=0)
    at_end = (lowest == 0) | (lowest == len(grid) - 1)
    return grid[lowest], np.exp(values.min(axis=0)), at_end


def akima_intervals(
    u: Array, losses: Array, noise: Array, t: float, n_draws: int, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of the place (as u) and the loss of akima_minimum, by redrawing the noise
    (n,), the standard deviations of the losses.

    The place's is at least a step of the grid wide, and open on a side at whose end more than a
    fortieth of the draws are. The lowest of noisy losses is too low, and lower when noise is added
    again: the loss's interval is shifted up by as much. nan without noise or draws.
    """
    if not (np.isfinite(noise).all() and n_draws):
        return (np.nan, np.nan), (np.nan, np.nan)
    drawn = np.maximum(losses + rng.normal(0.0, noise, (n_draws, len(u))), 1e-9)
    places, values, _ = akima_minimum(u, drawn)
    half_step = (u[-1] - u[0]) / (_GRID * (len(u) - 1) - 1) / 2
    low, high = np.quantile(places, [0.025, 0.975]) + np.array([-half_step, half_step])
    low = -np.inf if np.mean(places <= u[0]) > 0.025 else low
    high = np.inf if np.mean(places >= u[-1]) > 0.025 else high
    middle = 2 * akima_minimum(u, losses[None])[1][0] - values.mean()
    half = t * values.std()
    return (float(low), float(high)), (float(middle - half), float(middle + half))
