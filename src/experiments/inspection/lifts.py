"""How much more an expert is used in one text than in all, with intervals by document.

The lift of an expert in a text is its mass a token there, r_d, over its mass a token in all texts.
Its interval is that of the ratio of r_d and the mass a token in the other texts, r_o, from which
the lift follows: T rho / (T_d rho + T_o), for tokens T in all. Documents are the unit, texts the
strata. The variance of log rho is that of the linearized ratios (Cochran 1977, "Sampling
Techniques", §6.3 and §6.11). The quantile is Student's, with Satterthwaite's (1946) degrees of
freedom. A text has n - 1 of them for n = (sum m)^2 / sum m^2 of its documents' masses m, the number
of documents that would say as much if they had the mass evenly (Kish 1965, "Survey Sampling",
§11.7).

Where few documents have the mass of an expert, it has no interval: a lift is tested if at least 5
documents by that number would be of the text, and 5 of the others, were it the same in all. Where
none of the n documents of a side reads it, the interval ends at the exact bound of a share of which
n draws show none.

All tests of a layer are one family. Those of a false discovery rate of 5 % are significant
(Benjamini & Hochberg 1995), and all intervals are at the level that this leaves, 1 - 0.05 R / m
for R significant of m (Benjamini & Yekutieli 2005): an interval excludes 1 where the test is
significant.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.inspection.documents import DocumentMoments

RATE = 0.05  # of false discoveries
_EXPECTED = 5.0  # documents; the usual rule for counts


@dataclass(frozen=True, kw_only=True, eq=False)
class Lifts:
    """Arrays (D, N) of D texts and N experts; nan where there is no lift, or no interval.

    p: of each test by itself; q: by Benjamini & Hochberg, significant up to 0.05. level: of all
    intervals, from low to high. n_tested, n_significant: of the layer.
    """

    lift: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    q: np.ndarray
    level: float
    n_tested: int
    n_significant: int


def lifts(mass: np.ndarray, of: DocumentMoments, *, level: float | None = None) -> Lifts:
    """Those of a layer, of mass (D, N). With one text all are 1, and none is tested.

    level: of each interval by itself, instead of that of the family.
    """
    n, tokens = of.n_documents[:, None], of.n_tokens[:, None]
    others = mass.sum(0) - mass, n.sum() - n, tokens.sum() - tokens, of.n_read.sum(0) - of.n_read
    other_mass, n_other, other_tokens, other_read = others
    none, only = mass == 0, other_mass == 0
    with np.errstate(all="ignore"):  # what is not tested may be 0 / 0
        evenly = mass.sum(0) ** 2 / of.squares.sum(0)
        tested = evenly / n.sum() * np.minimum(n, n_other) >= _EXPECTED
        ratio = (mass / tokens) / (other_mass / other_tokens)
        error, freedom = _errors(mass, of)
        p = 2 * stats.t.sf(np.abs(np.log(ratio)) / error, freedom)
        share, other_share = of.n_read / n, other_read / n_other
        p = np.where(none, 2 * (1 - other_share) ** n, p)
        p = np.where(only, 2 * (1 - share) ** n_other, p)
        p = np.where(tested, np.minimum(1, p), np.nan)
        q, n_significant = adjusted(p)
        n_tested = int(tested.sum())
        alpha = RATE * max(n_significant, 1) / max(n_tested, 1) if level is None else 1 - level
        wide = stats.t.isf(alpha / 2, freedom) * error
        low = np.where(only, share / (1 - (alpha / 2) ** (1 / n_other)), ratio * np.exp(-wide))
        high = np.where(none, (1 - (alpha / 2) ** (1 / n)) / other_share, ratio * np.exp(wide))
        low, high = np.where(none, 0.0, low), np.where(only, np.inf, high)
        lift, low, high = (
            1 / (tokens / tokens.sum() + other_tokens / tokens.sum() / rho)
            for rho in (np.where(only, np.inf, ratio), low, high)
        )
    return Lifts(
        lift=np.where(mass + other_mass > 0, lift, np.nan),
        low=np.where(tested, low, np.nan),
        high=np.where(tested, high, np.nan),
        p=p,
        q=q,
        level=1 - alpha,
        n_tested=n_tested,
        n_significant=n_significant,
    )


def adjusted(p: np.ndarray) -> tuple[np.ndarray, int]:
    """Values q of Benjamini & Hochberg, nan where p is, and how many are up to RATE."""
    q = np.full(p.shape, np.nan)
    known = np.isfinite(p)
    own = p[known]
    if own.size:
        order = np.argsort(own)
        scaled = own[order] * own.size / np.arange(1, own.size + 1)
        ranked = np.minimum.accumulate(scaled[::-1])[::-1]
        back = np.empty_like(ranked)
        back[order] = np.minimum(ranked, 1)
        q[known] = back
    return q, int((q <= RATE).sum())


def _errors(mass: np.ndarray, of: DocumentMoments) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors (D, N) of log(r_d / r_o), and their degrees of freedom.

    The error of a log of a ratio M / T is the sum over documents of m / M - t / T, for a document's
    mass m and length t.
    """
    n, tokens = of.n_documents[:, None], of.n_tokens[:, None]

    def variances(all_mass: np.ndarray, all_tokens: np.ndarray) -> np.ndarray:
        """Each text's part of the variance of log(all_mass / all_tokens)."""
        a, b = 1 / all_mass, 1 / all_tokens
        total = a * mass - b * tokens
        squared = a**2 * of.squares - 2 * a * b * of.products + b**2 * of.squared_tokens[:, None]
        spread = np.maximum(0, n / (n - 1) * (squared - total**2 / n))
        return np.where(n > 1, spread, squared)  # one document has its distance from all

    evenly = np.where(of.squares > 0, mass**2 / of.squares, n)
    freedom = np.maximum(1, evenly - 1)
    errors, degrees = [], []
    for d in range(len(mass)):
        parts = variances(mass.sum(0) - mass[d], tokens.sum() - tokens[d])
        parts[d] = variances(mass[d], tokens[d])[d]
        total = parts.sum(0)
        errors.append(np.sqrt(total))
        degrees.append(total**2 / (parts**2 / freedom).sum(0))
    return np.array(errors), np.array(degrees)
