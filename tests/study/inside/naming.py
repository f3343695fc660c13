"""How often what is read names the domain of the text that it is read in.

Each expert is of the domain in which half of the documents use it most: the largest share of a
domain's mass. On the other half, the share of a domain's mass that its own experts have, averaged
over domains, is how often one reading names its domain. Each half chooses for the other. Whatever
the experts, it is 1 / domains where documents of all domains are alike: chance is exact, however
many experts there are and however few documents read them, for what chooses is not what is scored.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse, stats

from experiments.inspection.ablation.result import Estimate, ratio, weighted


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """mass: (documents, N), sparse, of gates. domain (documents,), from 0. tokens (documents,)."""

    mass: sparse.csr_matrix
    domain: np.ndarray
    tokens: np.ndarray


def halves(read):
    """(documents,): every second one of each domain."""
    half = np.zeros(len(read.domain), int)
    for d in np.unique(read.domain):
        own = np.flatnonzero(read.domain == d)
        half[own] = np.arange(len(own)) % 2
    return half


def domain_of_experts(read, chosen):
    """(N,): the domain of the largest share, by the chosen documents; -1 of what none reads."""
    n = read.domain.max() + 1
    shares = np.zeros((n, read.mass.shape[1]))
    for d in range(n):
        own = np.asarray(read.mass[chosen & (read.domain == d)].sum(0)).ravel()
        shares[d] = own / max(own.sum(), 1e-300)
    return np.where(shares.sum(0) > 0, shares.argmax(0), -1)


def named(read, scored=None):
    """(documents,) the share of each one's mass that the experts of its domain have.

    scored: masses that are scored instead, of the same documents and experts.
    """
    scored = read.mass if scored is None else scored
    half = halves(read)
    found = np.zeros(len(half))
    for h in (0, 1):
        experts = domain_of_experts(read, half != h)
        for d in np.unique(read.domain):
            own = (half == h) & (read.domain == d)
            total = np.asarray(scored[own].sum(1)).ravel()
            inside = np.asarray(scored[own][:, experts == d].sum(1)).ravel()
            found[own] = np.where(total > 0, inside / np.maximum(total, 1e-300), 0)
    return found


def averaged(read, values):
    """An estimate: the mean of a domain's tokens, of domains; documents are the unit."""
    n = read.domain.max() + 1
    parts = []
    for d in range(n):
        own = read.domain == d
        parts.append((1 / n, ratio(values[own] * read.tokens[own], read.tokens[own])))
    return weighted(parts)


def p_of(estimate: Estimate, null: float = 0.0) -> float:
    """Two-sided, of no difference from null."""
    if estimate.variance == 0:
        return 1.0
    t = (estimate.value - null) / np.sqrt(estimate.variance)
    return float(2 * stats.t.sf(abs(t), estimate.df))


def permuted(read, rng):
    """Domains' documents in another order, and documents drawn again: what is found is chance."""
    order = rng.permutation(len(read.domain))
    return Read(mass=read.mass[order], domain=read.domain, tokens=read.tokens[order])
