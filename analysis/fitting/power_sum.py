"""Losses that are sums of powers, fitted on a log scale: log L = log sum_j exp(x_j . theta).

Chinchilla's surface, a frontier with a floor, power laws in experts with a floor and the
granularity law all have this form: a coefficient enters by its logarithm, an exponent linearly.
"""

from collections.abc import Sequence

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import Model


def power_sum(terms: Sequence[Array]) -> Model:
    """Model of log L with the term exp(terms[j] @ theta); terms: J arrays (n, p).

    Returns theta (S, p) -> log L (S, n) and its derivatives (S, n, p).
    """
    design = np.stack(terms)
    turned = np.ascontiguousarray(design.transpose(0, 2, 1))

    def model(theta: Array) -> tuple[Array, Array]:
        z = theta @ turned
        top = z.max(axis=0)
        parts = np.exp(z - top)
        total = parts.sum(axis=0)
        shares = parts / total
        jacobian = shares[0][:, :, None] * design[0]
        for share, term in zip(shares[1:], design[1:], strict=True):
            jacobian += share[:, :, None] * term
        return top + np.log(total), jacobian

    return model


def exponentiated(model: Model) -> Model:
    """Same in L itself rather than log L, for residuals in nats."""

    def of_loss(theta: Array) -> tuple[Array, Array]:
        log_loss, jacobian = model(theta)
        loss = np.exp(log_loss)
        return loss, jacobian * loss[:, :, None]

    return of_loss


def non_negative(gram: Array, moments: Array) -> Array:
    """argmin of x'Gx/2 - m'x over x >= 0, for a batch: gram (..., k, k), moments (..., k), k small.

    Tries every subset of the coefficients: exact, and a loop over 2^k instead of over the batch.
    """
    k = moments.shape[-1]
    best = np.zeros_like(moments)
    lowest = np.zeros(moments.shape[:-1])
    for subset in range(1, 2**k):
        on = [j for j in range(k) if subset >> j & 1]
        g = gram[..., on, :][..., :, on]
        m = moments[..., on]
        ridge = 1e-13 * np.trace(g, axis1=-2, axis2=-1)[..., None, None] * np.eye(len(on))
        x = np.linalg.solve(g + ridge, m[..., None])[..., 0]
        value = -0.5 * (m * x).sum(axis=-1)
        better = (x >= 0).all(axis=-1) & (value < lowest)
        full = np.zeros_like(moments)
        full[..., on] = x
        best = np.where(better[..., None], full, best)
        lowest = np.where(better, value, lowest)
    return best
