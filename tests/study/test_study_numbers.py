"""Numbers in the prose of results/study/first.md, from the records: sizes, seconds, experts."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis.figures.seconds import training_seconds
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, SEEDED, text


@pytest.fixture(scope="module")
def said():
    return text("results/study/first.md")


def listed(values):
    *first, last = [f"{value:.3f}" for value in values]
    return f"{', '.join(first)} and {last}"


def test_the_tie_of_dense_at_the_largest_budget(seeds, said):
    assert seeds.mean("dense", 3e13, 4) < seeds.mean("dense", 3e13, 5) < 3.604
    four, five = (seeds.mean("peer", 3e13, n) - seeds.mean("dense", 3e13, n) for n in (4, 5))
    assert f"PEER minus dense is {four:.3f} at L = 4, one seed, and {five:.3f} at L = 5" in said


def test_averages_over_sizes(seeds, said):
    fine, pkm, dense = (
        [seeds.over_sizes("peer", other, budget).mean() for budget in SEEDED]
        for other in ("moe_fine", "pkm", "dense")
    )
    assert f"PEER is below `moe_fine` by {listed([-d for d in fine])} (" in said
    assert f"significant at 3e13 alone: {listed(pkm)} (" in said
    a, b, c = (f"{-d:.3f}" for d in dense)
    assert f"difference to dense grows from {a} over {b} to {c}," in said


def test_small_and_large_models_of_the_largest_budget(seeds, said):
    small, large = (
        {m: seeds.over_sizes(m, "dense", 3e13)[at] for m in ("peer", "pkm", "moe_fine", "moe")}
        for at in (0, -1)
    )
    a, b, c, d = (f"{-value:.3f}" for value in small.values())
    assert f"PEER is {a} below it, PKM {b}, `moe_fine` {c} and `moe` {d};" in said
    half = stats.t.ppf(0.975, 12) * math.sqrt(2 * seeds.pooled(3e13))
    assert f"at L = 7 {listed([-value for value in large.values()])}," in said
    assert f"(each ±{half:.3f})" in said
    lead = seeds.over_sizes("none", "dense", 3e13)[-1]
    assert [m for m in large if large[m] < lead] == ["peer"]  # "the last three above no layer"


def test_what_the_first_block_is_worth(seeds, said):
    first, second = (seeds.mean("none", 3e12, n) - seeds.mean("dense", 3e12, n) for n in (2, 3))
    assert f"without a layer the first costs {first:.2f} nats at 3e12, the second nothing" in said
    assert second < 0


def test_seconds_at_the_second_budget(said):
    runs = load_table(RESULTS / "isoflop")
    runs = runs.assign(seconds=training_seconds(runs))
    runs = runs[(runs["budget"] == 1e13) & (runs["n_layers"] == 4)]
    found = runs.groupby("series")["seconds"].first()
    rate = {model: f"{1e13 / found[model] / 1e9:.0f}" for model in found.index}
    assert (
        f"PEER runs at {rate['peer']} GFLOP/s and takes {found['peer']:.0f} s, "
        f"dense {rate['dense']} and {found['dense']:.0f} s, "
        f"PKM {rate['pkm']} and {found['pkm']:.0f} s."
    ) in said


def test_many_experts_with_the_tokens_of_few(said):
    """The interval is pooled over the four numbers of experts: 8 degrees of freedom."""
    experts = [read_record(path) for path in find_records(RESULTS / "experts")]
    causes = [read_record(path) for path in find_records(RESULTS / "causes")]

    def losses(records, n_experts, budget):
        found = [
            r.val_loss
            for r in records
            if (r.model, r.n_experts, r.budget) == ("peer", n_experts, budget)
            and (r.config["model"]["n_heads"], r.config["model"]["top_k"]) == (4, 16)
            and r.config["model"]["query_norm"] == "batch"
            and r.config["optim"]["table_lr"] == 2
        ]
        assert len(found) == 3
        return np.array(found)

    at = {n: losses(experts, n, 3e12) for n in (64**2, 128**2, 256**2, 512**2)}
    longer = losses(causes, 512**2, 3.78e12).mean()
    variance = np.mean([each.var(ddof=1) for each in at.values()])
    half = stats.t.ppf(0.975, 8) * math.sqrt(variance * 2 / 3)
    gain = at[64**2].mean() - longer
    assert (
        f"they have {longer:.4f} at 3e12 instead of {at[512**2].mean():.4f}: {gain:.3f} "
        f"({gain - half:.3f} to {gain + half:.3f}) below 4,096 experts "
        f"instead of {at[512**2].mean() - at[64**2].mean():.3f} above"
    ) in said


def test_what_choosing_by_the_expert_costs_beside_the_noise(seeds, said):
    """Two single runs at L = 2: expert choice of the sweep, token choice with a balance loss."""
    causes = [read_record(path) for path in find_records(RESULTS / "causes")]
    (by_token,) = (
        r.val_loss
        for r in causes
        if r.n_layers == 2 and r.config["model"].get("routing") == "token_choice"
    )
    difference = seeds.mean("moe", 3e12, 2) - by_token
    sparse = np.mean([seeds.own[model] for model in ("moe", "moe_fine", "pkm", "peer")])
    noises = [math.sqrt(2 * variance) for variance in (seeds.pooled(3e12), sparse)]
    a, b = (f"{difference / noise:.1f}" for noise in noises)
    assert f"The {difference:.3f} is two runs" in said
    assert f"{a} times the noise of a difference if that is pooled" in said
    assert f"and {b} times that of sparse layers" in said
    significant = [difference / n > stats.t.ppf(0.975, d) for n, d in zip(noises, (12, 24))]
    assert significant == [True, False]
