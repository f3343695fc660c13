"""Curves made from a law, step by step and slowly, as the papers write it."""

import numpy as np

from analysis.curves.history import History
from experiments.records.schedule import lr_factor

PEAK, WARM = 0.01, 60
ANNEALING = {"level": 2.6, "a": 2.0, "alpha": 0.5, "c": 0.06, "lam": 0.99}
MULTI = {"level": 2.6, "a": 2.0, "alpha": 0.5, "b": 40.0, "c": 0.4, "beta": 0.5, "gamma": 0.6}


def rates(kind, n_steps, peak=PEAK):
    """(n_steps,), of step 1 on; constant is wsd without an end."""
    how = {"n_warmup": WARM, "n_decay": n_steps // 5, "final": 0.1}
    name = "trunk" if kind == "constant" else kind
    return np.array([peak * lr_factor(s, n_steps, kind=name, **how) for s in range(n_steps)])


def slow_annealing(rate, level, a, alpha, c, lam):
    """Tissue 2024, Eq. 2, with falls counted after the warm-up."""
    found, s1, s2, momentum = [], 0.0, 0.0, 0.0
    for i, r in enumerate(rate):
        fall = rate[i - 1] - r if i >= WARM else 0.0
        momentum = lam * momentum + fall
        s1, s2 = s1 + r, s2 + momentum
        found.append(level + a * s1**-alpha - c * s2)
    return np.array(found)


def slow_multi_power(rate, level, a, alpha, b, c, beta, gamma):
    """Luo 2025, Eq. 1, with falls counted after the warm-up."""
    total = np.cumsum(rate)
    found = []
    for t in range(len(rate)):
        gain = 0.0
        for k in range(WARM, t + 1):
            since = total[t] - total[k - 1]
            gain += (rate[k - 1] - rate[k]) * (1 - (1 + c * rate[k] ** -gamma * since) ** -beta)
        found.append(level + a * total[t] ** -alpha - b * gain)
    return np.array(found)


def curve(kind, n_steps, loss, noise=0.0, rng=None, shared=0.0, every=10, run=None, peak=PEAK):
    """A history of every tenth step of losses (n_steps,); shared: noise that all runs have."""
    step = np.arange(every, n_steps + 1, every)
    sd = noise * rng.standard_normal(len(step)) if rng is not None else 0.0
    return History(
        run=run or f"{kind} {n_steps}",
        series="x",
        step=step.astype(float),
        rate=rates(kind, n_steps, peak)[step - 1],
        loss=loss[step - 1] * np.exp(sd + (shared[: len(step)] if np.ndim(shared) else 0.0)),
    )


def annealed(kind, n_steps, **how):
    return curve(kind, n_steps, slow_annealing(rates(kind, n_steps), **ANNEALING), **how)
