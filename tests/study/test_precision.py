"""docs/performance.md's table of bfloat16 factors against float32 is that of the committed runs."""

import statistics

import pytest
from scipy import stats

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, document_table

DOCUMENT = ROOT / "docs" / "performance.md"
MODELS = ("dense", "moe_fine", "pkm", "peer")
SEEDS = range(5)
BUDGET, LARGER = 3e12, 1e13


@pytest.fixture(scope="module")
def losses():
    """Each run's loss, by precision, model, budget and seed."""
    found = {}
    for name, precision in (("float32", "32-true"), ("bf16", "bf16-mixed")):
        for record in map(read_record, find_records(RESULTS / f"precision_{name}")):
            assert record.precision == precision
            assert record.environment["trunk"] == "fused avx512_bf16"
            found[name, record.model, record.budget, record.seed] = record.val_loss
    return found


def differences(losses, model):
    """bfloat16's loss less float32's, seed by seed."""
    pairs = ([losses[name, model, BUDGET, seed] for name in ("bf16", "float32")] for seed in SEEDS)
    return [rounded - exact for rounded, exact in pairs]


def said(values):
    """Mean and 95 % interval of differences of pairs."""
    mean, n = statistics.mean(values), len(values)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / n**0.5
    return f"{mean:+.4f} ({mean - half:+.4f} to {mean + half:+.4f})"


def test_the_table_is_that_of_the_records(losses):
    _, rows = document_table("nats/token", DOCUMENT)
    wanted = []
    for model in MODELS:
        exact, rounded = (
            [losses[name, model, BUDGET, seed] for seed in SEEDS] for name in ("float32", "bf16")
        )
        means = [f"{statistics.mean(each):.4f}" for each in (exact, rounded)]
        spread = f"{statistics.stdev(exact):.4f}"
        wanted.append([model, *means, said(differences(losses, model)), spread])
    every = [value for model in MODELS for value in differences(losses, model)]
    wanted.append(["all 20 pairs", "", "", said(every), ""])
    assert rows == wanted


def test_the_pairs_at_the_larger_budget_are_those_of_the_records(losses):
    text = " ".join(DOCUMENT.read_text().split())
    for model in ("dense", "peer"):
        exact, rounded = (losses[name, model, LARGER, 0] for name in ("float32", "bf16"))
        assert f"{model} {exact:.4f} and {rounded:.4f}" in text
