"""Classes of tokens, and coverage of their lifts where documents use an expert more or less."""

import numpy as np
import pytest

from experiments.inspection.classes import CLASSES, find_class
from experiments.inspection.lifts import lifts
from tests.inspection.test_lifts import moments_of


@pytest.mark.parametrize(
    ("string", "expected"),
    [
        (" the", "word start"), ("ing", "inside a word"), (" The", "capital"), ("NA", "capital"),
        ("12", "number"), (" x2", "number"), ("),", "punctuation"), (" (", "punctuation"),
        ("(the", "inside a word"), ("\n\n", "white space"), (" ", "white space"),
        (" caf\u00e9", "non-ASCII"), ("\ufffd", "non-ASCII"), ("", "special"),
    ],
)  # fmt: skip
def test_a_token_is_of_one_class(string, expected):
    assert find_class(string) == expected
    assert expected in CLASSES


@pytest.mark.parametrize("own", [False, True])
def test_intervals_cover_where_classes_share_documents(own):
    """A document has tokens of all classes. It uses an expert more or less than others, in all of
    its classes alike, or (own) in each by itself.
    """
    rng, rates = np.random.default_rng(0), np.array([1.0, 1.0, 2.0, 0.5])
    mix, n_experts, sigma = np.array([0.4, 0.3, 0.2, 0.1]), 400, 0.7
    n, covered, tested = 300, 0, 0
    for _ in range(2):
        lengths = np.ceil(rng.lognormal(5, 0.7, n))
        counts = np.array([rng.multinomial(int(t), rng.dirichlet(20 * mix)) for t in lengths])
        texts = []
        shared = rng.lognormal(-(sigma**2) / 2, sigma, (n, n_experts))
        for c in range(4):
            factor = rng.lognormal(-(sigma**2) / 2, sigma, (n, n_experts)) if own else shared
            some = counts[:, c] > 0
            mass = (rates[c] * counts[:, c : c + 1] * factor)[some]
            texts.append((mass, counts[some, c].astype(float)))
        found = lifts(*moments_of(texts), level=0.95)
        true = rates / (rates * mix).sum()
        covered += ((found.low <= true[:, None]) & (true[:, None] <= found.high)).sum()
        tested += np.isfinite(found.low).sum()
    print(f"coverage {covered / tested:.4f} of {tested}")
    assert tested == 2 * 4 * n_experts
    assert covered / tested >= 0.93
