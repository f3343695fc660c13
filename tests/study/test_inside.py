"""docs/inspect_study.md says what the committed files of results/study/inspect do."""

import numpy as np
import pytest
from scipy import sparse

from experiments.inspection.ablation.facts import read_facts
from tests.study.committed import ROOT, text
from tests.study.inside.files import FACTS
from tests.study.inside.naming import Read, averaged, halves, named, permuted
from tests.study.inside.tables import lines

DOCUMENT = ROOT / "docs" / "inspect_study.md"


def drawn(rng, *, n=60, n_domains=4, n_experts=40, lift=0.0):
    """n documents of each domain, of log-normal masses; an expert is of one domain, or of none."""
    domain = np.repeat(np.arange(n_domains), n)
    own = np.arange(n_experts) % n_domains == domain[:, None]
    mass = rng.lognormal(0, 1, (len(domain), n_experts)) * np.exp(lift * own)
    tokens = rng.integers(50, 200, len(domain)).astype(float)
    return Read(mass=sparse.csr_matrix(mass), domain=domain, tokens=tokens)


def test_naming_is_a_sum_written_out():
    read = drawn(np.random.default_rng(0), n=6, lift=0.5)
    half, mass = halves(read), read.mass.toarray()
    found = named(read)
    for i in range(len(half)):
        shares = []
        for d in range(4):
            own = mass[(half != half[i]) & (read.domain == d)].sum(0)
            shares.append(own / own.sum())
        of = np.argmax(shares, axis=0)
        expected = mass[i, of == read.domain[i]].sum() / mass[i].sum()
        assert found[i] == pytest.approx(expected, rel=1e-12)


def test_documents_that_are_alike_name_their_domain_by_chance():
    """However many experts there are for few documents: 0.25 of 4 domains, within 4 errors."""
    rng = np.random.default_rng(1)
    values = [averaged(one, named(one)).value for one in (drawn(rng) for _ in range(100))]
    assert abs(np.mean(values) - 0.25) < 4 * np.std(values) / 10
    read = drawn(rng, lift=0.5)
    assert averaged(read, named(read)).value > 0.3
    values = [averaged(one, named(one)).value for one in (permuted(read, rng) for _ in range(25))]
    assert abs(np.mean(values) - 0.25) < 0.01


def test_intervals_are_too_narrow_by_what_the_document_says():
    """They hold for the choice that was made; another half of documents would choose otherwise."""
    rng = np.random.default_rng(2)
    found = [averaged(one, named(one)) for one in (drawn(rng, lift=0.5) for _ in range(100))]
    truth = np.mean([one.value for one in found])
    covers = np.mean([one.interval()[0] <= truth <= one.interval()[1] for one in found])
    assert 0.75 < covers < 0.9
    assert f"cover in {covers:.0%} where" in text("docs/inspect_study.md").replace(" %", "%")


def test_the_document_has_the_tables_of_the_files():
    document = DOCUMENT.read_text(encoding="utf-8")
    for table in lines():
        for line in table:
            assert line in document, line


def test_the_facts_are_at_least_twenty_with_four_siblings_each():
    found = read_facts(FACTS).facts
    assert len(found) >= 20
    assert {len(one.siblings) for one in found} == {4}
    assert f"{len(found)} facts" in DOCUMENT.read_text(encoding="utf-8")
