"""What results/study/first.md claims that no command of the analysis prints, from the records."""

import json
import math
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.figures.seconds import training_seconds
from analysis.multiplier.fit import compute_multipliers
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.study.committed import (
    MODELS,
    RESULTS,
    SEEDED,
    SPARSE,
    Difference,
    distinct_records,
    document_table,
    isoflop,
    student,
    text,
    welch,
)

BASELINES = {"dense": "dense", "no layer": "none"}
FOREIGN = ("hpo", "mueller", "recipes")


@pytest.fixture(scope="module")
def experts():
    return [read_record(path) for path in find_records(RESULTS / "experts")]


@pytest.fixture(scope="module")
def tuning():
    return [read_record(path) for path in find_records(RESULTS / "tuning")]


def ratio(found):
    value, lower, upper = found
    return f"{value:.2f} ({lower:.2f} to {upper:.2f})"


def lower_by(d):
    """As '0.096 (0.056 to 0.135)' where the difference is -0.096."""
    return str(Difference(value=-d.value, half=d.half, p=d.p))


def listed(values, form=".3f"):
    *first, last = [format(value, form) for value in values]
    return f"{', '.join(first)} and {last}"


def test_the_answer(seeds):
    head, rows = document_table("PEER at dense's best size, three seeds")
    expected = {
        f"compute multiplier against {name}": [*map(ratio, seeds.multipliers("peer", model))]
        for name, model in BASELINES.items()
    }
    for name, model in {"dense's": "dense", "no layer's": "none", "PKM's": "pkm"}.items():
        expected[f"loss minus {name}"] = [
            *(str(seeds.by_own("peer", model, budget)) for budget in SEEDED),
            str(seeds.mean_by_own("peer", model)),
        ]
    assert {label: cells for label, *cells in rows} == {
        label: cells[: len(head) - 1] for label, cells in expected.items()
    }


@pytest.mark.parametrize("baseline", BASELINES.values())
def test_the_multipliers_of_all_layers(seeds, baseline):
    _, rows = document_table(f"against {baseline}")
    assert {name.strip("`") for name, *_ in rows} == set(MODELS) - {"dense", baseline}
    for name, *cells in rows:
        assert cells == [*map(ratio, seeds.multipliers(name.strip("`"), baseline))]


def test_a_multiplier_is_the_compute_at_which_the_baseline_has_that_loss(seeds):
    """PEER at 1e13, by hand: dense's loss there lies between its own at 1e13 and at 3e13."""
    dense, denser = seeds.mean("dense", 1e13), seeds.mean("dense", 3e13)
    way = (dense - seeds.mean("peer", 1e13)) / (dense - denser)
    assert seeds.multipliers("peer", "dense")[1][0] == pytest.approx(3**way, rel=1e-9)


def test_what_the_multipliers_leave_out(seeds):
    said = text("results/study/first.md")
    first, second = (
        (seeds.mean("dense", a) - seeds.mean("dense", b)) / math.log(b / a)
        for a, b in ((3e12, 1e13), (1e13, 3e13))
    )
    assert f"falls by {first:.3f} nats per factor e of compute from 3e12 to 1e13" in said
    assert f"by {second:.3f} from 1e13 to 3e13" in said
    straight = [math.exp(-seeds.by_own("peer", "dense", b).value / first) for b in SEEDED]
    assert f"multipliers against dense would be {listed(straight, '.2f')}." in said


def test_the_multipliers_of_one_law_for_both(seeds):
    def fitted(baseline, asymptote):
        points = {m: (list(SEEDED), [seeds.mean(m, b) for b in SEEDED]) for m in (baseline, "peer")}
        found = compute_multipliers(points, baseline, asymptote=asymptote, slopes="one")
        return found.at_compute("peer", 1e13)

    dense, none = ([fitted(name, at) for at in (1.5, 2.0, 2.5)] for name in ("dense", "none"))
    a, b = (sorted(f"{found.value:.2f}" for found in each) for each in (dense, none))
    said = text("results/study/first.md")
    assert (
        f"has {a[0]} to {a[2]} for PEER against dense and {b[0]} to {b[2]} against `none`" in said
    )
    a, b = (f"{found.lower:.2f} to {found.upper:.2f}" for found in (dense[1], none[1]))
    assert f"are much wider: {a} and {b} at 2 nats." in said


def test_what_the_halved_rate_does_at_the_largest_budget(seeds, tuning):
    """One seed of each at the tuned rate, and the same seed at half of it."""
    tried = sorted((r for r in tuning if r.budget == 3e13), key=lambda r: r.lr)
    whole = {r.model: r.val_loss for r in tried}  # the highest rate of each, which is the tuned one
    half = {m: seeds.of(m, 3e13)[0] for m in MODELS}
    gain = {m: whole[m] - half[m] for m in MODELS}
    assert [m for m in MODELS if gain[m] < 0] == ["none"]
    assert set(sorted(MODELS, key=gain.get)[-2:]) == {"dense", "peer"}
    said = text("results/study/first.md")
    assert f"gain most by it, {listed([gain['dense'], gain['peer']])} nats" in said
    assert f"`none` alone loses, {-gain['none']:.3f}." in said
    assert f"by {np.mean(list(gain.values())):.3f} nats on the average of all six" in said
    best = {m: min(whole[m], half[m]) for m in MODELS}
    lead = best["none"] - best["peer"]
    assert f"PEER is {lead:.3f} below `none` (one seed)" in said
    assert f"PEER is {lead:.3f} below it" in said
    slope = (seeds.mean("none", 1e13) - seeds.mean("none", 3e13)) / math.log(3)
    multiplier = math.exp(lead / slope)
    mean = math.exp(
        np.mean([math.log(found[0]) for found in seeds.multipliers("peer", "none")[:2]]) * 2 / 3
        + math.log(multiplier) / 3
    )
    assert f"to {multiplier:.2f} and the mean to {mean:.2f} (one seed)" in said
    slower = (seeds.mean("dense", 1e13) - whole["dense"]) / math.log(3)
    assert f"({slower:.3f} at the tuned one, seed 0 there)" in said
    assert round(multiplier, 1) == 1.2
    assert sorted(whole, key=whole.get).index("peer") == 4  # "fifth of six"


def test_the_layers_noise(seeds):
    head, (row,) = document_table("| dense | none")
    assert row[1:] == [f"{math.sqrt(seeds.own[model]):.4f}" for model in head[1:]]
    sparse = np.mean([seeds.own[model] for model in SPARSE])
    calm = np.mean([seeds.own[model] for model in ("dense", "none")])
    p = stats.f.sf(sparse / calm, 24, 12)
    said = f"{sparse / calm:.1f} times that of dense and none (F test, p = {p:.4f})"
    assert said in text("results/study/first.md")


def settings_with_seeds():
    """(model, budget): the losses of each setting of the study that has several seeds."""
    found = defaultdict(list)
    for r in distinct_records():
        parts = (r.config["ladder"], r.config["model"], r.config["optim"])
        key = (r.model, r.budget, r.n_layers, r.n_params, json.dumps(parts, sort_keys=True))
        found[key].append(r.val_loss)
    cells = defaultdict(list)
    for (model, budget, *_), losses in found.items():
        if len(losses) > 1:
            cells[model, budget].append(np.array(losses))
    return cells


def test_the_noise_of_all_settings_with_seeds():
    cells = settings_with_seeds()
    groups = {"sparse layers": SPARSE, "dense and none": ("dense", "none"), "PEER alone": ("peer",)}
    _, rows = document_table("noise over all settings with seeds, nats/token (degrees of freedom)")
    assert [label for label, *_ in rows] == list(groups)
    for label, *shown in rows:
        for cell, budget in zip(shown, SEEDED, strict=True):
            runs = [losses for m in groups[label] for losses in cells[m, budget]]
            dof = sum(len(losses) - 1 for losses in runs)
            squares = sum(losses.var() * len(losses) for losses in runs)
            assert cell == f"{math.sqrt(squares / dof):.4f} ({dof})"


def test_peer_at_the_second_budget_with_its_noise_there(seeds):
    own = settings_with_seeds()["peer", 1e13]
    assert len(own) == 4  # numbers of experts
    variance = np.mean([losses.var(ddof=1) for losses in own])
    found = []
    for other in ("dense", "none", "pkm"):
        value = seeds.mean("peer", 1e13) - seeds.mean(other, 1e13)
        a, b = variance / 3, seeds.own[other] / 3
        found.append(student(value, math.sqrt(a + b), (a + b) ** 2 / (a**2 / 8 + b**2 / 6)))
    dense, none, pkm = map(lower_by, found)
    said = text("results/study/first.md")
    assert f"is below dense by {dense} and below none by {none}, both significant" in said
    assert f"and below PKM by {pkm}, which is not." in said
    assert [d.p < 0.05 for d in found] == [True, True, False]
    assert f"With the {math.sqrt(variance):.3f} of its four numbers of experts" in said
    assert f"takes {math.sqrt(seeds.own['peer']):.4f} for PEER" in said


def test_four_numbers_of_experts_at_the_second_budget(experts):
    found = {
        n: [r.val_loss for r in experts if (r.budget, r.n_experts) == (1e13, n) and usual(r)]
        for n in (64**2, 128**2, 256**2, 512**2)
    }
    few, *more = found.values()
    generator = np.random.default_rng(0)
    p = stats.dunnett(*more, control=few, random_state=generator).pvalue
    f = stats.f_oneway(few, *more).pvalue
    said = f"of the three p is {p.min():.2f}, and an F test of the four numbers has {f:.2f}."
    assert said in text("results/study/first.md")
    assert min(p) > 0.05


def test_what_is_significant_after_correction(seeds):
    _, rows = document_table("noise, correction")
    found = {label: [pairs(cell) for cell in cells] for label, *cells in rows}
    assert found["pooled, Holm"] == [seeds.after_holm(seeds.by_pooled, b) for b in SEEDED]
    assert found["own, Holm"] == [seeds.after_holm(seeds.by_own, b) for b in SEEDED]
    for cell, budget in zip(found["pooled, Dunnett"], SEEDED, strict=True):
        others = [seeds.of(model, budget) for model in MODELS[1:]]
        generator = np.random.default_rng(0)  # p is an integral by Monte Carlo, to some 1e-4
        p = stats.dunnett(*others, control=seeds.of("dense", budget), random_state=generator).pvalue
        assert min(abs(p - 0.05)) > 0.005
        assert cell == {(m, "dense") for m, value in zip(MODELS[1:], p) if value < 0.05}


def pairs(cell):
    """'`a` below `b`, `c`; `d` below `b`' as {(a, b), (a, c), (d, b)}."""
    found = set()
    for part in cell.split(";"):
        low, high = part.split(" below ")
        found |= set(product([low.strip(" `")], (name.strip(" `") for name in high.split(","))))
    return found


def test_dense_and_no_layer(seeds):
    by_own = [seeds.by_own("none", "dense", budget) for budget in SEEDED]
    assert [d.p < 0.05 for d in by_own] == [False, True, True]
    assert not any(seeds.by_pooled("none", "dense", b).p < 0.05 for b in SEEDED)
    assert {f"{d.half:.3f}" for d in by_own} == {"0.013"}
    mean = seeds.mean_by_own("none", "dense")
    said = text("results/study/first.md")
    assert f"by {listed([-d.value for d in by_own])}: not significant by pooled noise" in said
    assert f"mean of the three, {mean}." in said
    for budget in (1e13, 3e13):
        assert seeds.of("none", budget).max() < seeds.of("dense", budget).min()


def test_peer_against_none_by_pooled_noise(seeds):
    found = [lower_by(seeds.by_pooled("peer", "none", budget)) for budget in SEEDED]
    assert f"PEER gains {found[0]}, {found[1]} and {found[2]}: `--baseline none`" in text(
        "results/study/first.md"
    )


def test_the_verdicts_on_the_paper_s_order(seeds):
    """Column `here` of the table, by pooled noise at dense's best size."""

    def below(model, other):
        found = [seeds.by_pooled(model, other, budget) for budget in SEEDED]
        return [d.value < 0 and d.p < 0.05 for d in found], [d.value < 0 for d in found]

    assert below("peer", "dense")[0] == [True, True, True]
    assert below("pkm", "dense")[0] == [True, True, True]
    assert below("peer", "pkm") == ([False, True, False], [True, True, True])
    assert below("moe", "dense")[0] == [False, False, False]
    assert below("pkm", "moe")[0] == [True, False, True]
    for by in (seeds.by_pooled, seeds.by_own):
        kept = [seeds.after_holm(by, budget) for budget in SEEDED]
        assert all(("peer", "dense") in pairs for pairs in kept)
        assert not any(("peer", "pkm") in pairs for pairs in kept)
        assert ("pkm", "dense") in kept[2]
        assert ("pkm", "dense") not in kept[0]
    assert seeds.mean_by_own("peer", "pkm").p < 0.05


def test_peer_at_the_parameters_of_fine_experts(seeds, experts):
    _, rows = document_table("| parameters | FLOPs a token")
    shown = {label: cells for label, *cells in rows if cells[0][:1].isdigit()}

    def of_experts(budget):
        return [r for r in experts if r.budget == budget and usual(r) and r.n_experts == 4096]

    def of_isoflop(model):
        return lambda budget: [
            r
            for r in seeds.records
            if (r.model, r.budget, r.n_layers) == (model, budget, SEEDED[budget])
        ]

    runs = {
        "`moe_fine`": of_isoflop("moe_fine"),
        "`peer`, 4,096 experts": of_experts,
        "`pkm`": of_isoflop("pkm"),
    }
    for label, find in runs.items():
        expected = []
        for budget in (3e12, 1e13):
            found = find(budget)
            assert len(found) == 3
            loss = np.mean([r.val_loss for r in found])
            expected += [
                f"{found[0].n_params:,}",
                f"{found[0].flops_per_token:,.0f}",
                f"{loss:.4f}",
            ]
        assert shown[label] == expected
    differences = []
    for budget in (3e12, 1e13):
        peer = np.array([r.val_loss for r in of_experts(budget)])
        fine = seeds.of("moe_fine", budget)
        variances = peer.var(ddof=1) / 3, fine.var(ddof=1) / 3
        differences.append(welch(peer.mean() - fine.mean(), *variances, dof=2))
    assert (
        f"PEER minus `moe_fine` is {differences[0]} at 3e12 and {differences[1]} at 1e13"
        in text("results/study/first.md")
    )
    both = f"is {differences[0]} at 3e12 and {differences[1]} at 1e13."
    assert both in text("docs/study.md")


def usual(record):
    """Of the experts' sweep: four heads of 16, batch norm of queries."""
    model = record.config["model"]
    return (model["n_heads"], model["top_k"], model["query_norm"]) == (4, 16, "batch")


def test_other_text():
    def mean_loss(record):
        scored = (record.evaluations[f"packages/{d}@max_tokens=131072"] for d in FOREIGN)
        return np.mean([each["loss"] for each in scored])

    foreign = isoflop(mean_loss)
    dense = [foreign.by_pooled("peer", "dense", budget) for budget in SEEDED]
    none = [foreign.by_pooled("peer", "none", budget) for budget in SEEDED]
    a, b = ([lower_by(d) for d in found] for found in (dense, none))
    assert (
        f"PEER is below dense by {a[0]}, {a[1]} and {a[2]}, "
        f"and below no layer by {b[0]}, {b[1]} and {b[2]}."
    ) in text("results/study/first.md")
    for by in (foreign.by_pooled, foreign.by_own):
        for baseline in ("dense", "none"):
            p = [by("peer", baseline, budget).p for budget in SEEDED]
            assert [value < 0.05 for value in p] == [False, True, True]


def test_over_all_sizes(seeds):
    said = text("results/study/first.md")
    lowest = below_pkm = below_dense = 0
    near, spread = [], []
    for budget, best in SEEDED.items():
        sizes = sorted(n for m, b, n in seeds.cells if (m, b) == ("peer", budget))
        for size in sizes:
            losses = {model: seeds.mean(model, budget, size) for model in MODELS}
            lowest += min(losses, key=losses.get) == "peer"
            below_pkm += losses["peer"] < losses["pkm"]
            below_dense += losses["peer"] < losses["dense"]
        differences = seeds.over_sizes("peer", "dense", budget)
        at = sizes.index(best)
        near.append(-differences[at - 1 : at + 2].mean())
        spread.append(stats.t.ppf(0.975, 4) * differences.std(ddof=1) / math.sqrt(5))
    assert (lowest, below_pkm, below_dense) == (11, 12, 14)
    assert "in eleven of the fifteen columns of size and budget, below PKM in twelve" in said
    assert "and below dense in fourteen" in said
    assert f"its two neighbours are {listed(near)}." in said
    signs = [f"±{value:.3f}" for value in spread]
    assert f"the intervals are {signs[0]}, {signs[1]} and {signs[2]}." in said
    without = -seeds.over_sizes("peer", "dense", 3e13)[1:].mean()
    assert f"the third is {without:.3f}." in said


def test_fine_experts_over_the_sizes_of_each_budget(seeds):
    """The average of four single runs and the mean of three: its variance is (4 + 1/3) / 25."""
    weight = (4 + 1 / 3) / 25
    significant = {}
    for budget in SEEDED:
        value = seeds.over_sizes("moe_fine", "dense", budget).mean()
        own = welch(value, seeds.own["moe_fine"] * weight, seeds.own["dense"] * weight)
        pooled = student(value, math.sqrt(2 * seeds.pooled(budget) * weight), 12)
        significant[budget] = (pooled.p < 0.05, own.p < 0.05)
        if budget == 3e12:
            assert f"({own.value:.3f}, interval ±{own.half:.3f})" in text("results/study/first.md")
    assert significant == {3e12: (True, False), 1e13: (True, True), 3e13: (True, True)}


def test_equal_seconds(seeds):
    runs = load_table(RESULTS / "isoflop")
    runs = runs.assign(seconds=training_seconds(runs))
    runs = runs[runs["n_layers"] == runs["budget"].map(SEEDED)]
    seconds = runs.groupby(["series", "budget"])["seconds"].mean()
    slopes = {
        model: (seeds.mean(model, 3e12) - seeds.mean(model, 3e13)) / math.log(10)
        for model in ("dense", "none")
    }
    said = text("results/study/first.md")
    assert f"is worth {slopes['dense']:.3f} nats to dense and {slopes['none']:.3f} to" in said
    expected = {}
    for model in ("peer", "pkm"):
        name = model.upper()
        ratios = [seconds[model, budget] / seconds["dense", budget] for budget in SEEDED]
        expected[f"{name}'s seconds, dense's = 1"] = [f"{each:.2f}" for each in ratios]
        for baseline in ("dense", "none"):
            cells = []
            for budget in SEEDED:
                time = math.log(seconds[model, budget] / seconds[baseline, budget])
                d = seeds.by_own(model, baseline, budget)
                net = d.value + slopes[baseline] * time
                cells.append(str(Difference(value=net, half=d.half, p=d.p)))
            expected[f"{name} minus {baseline}"] = cells
    _, rows = document_table("at equal seconds")
    assert {label: cells for label, *cells in rows} == expected


def test_the_lead_at_the_rates_of_the_second_budget(seeds, tuning):
    """Four ways to take the best rate of dense and of PEER at 1e13, seed 0."""
    at = {"dense": {}, "peer": {}}
    for record in tuning:
        if record.budget == 1e13:
            at[record.model][record.config["ladder"]["lr"]] = record.val_loss
    used = {
        "dense": (1e-2, seeds.of("dense", 1e13)[0]),
        "peer": (1.1e-2, seeds.of("peer", 1e13)[0]),
    }

    def minimum(losses):
        a, b, c = np.polyfit(np.log(list(losses)), list(losses.values()), 2)
        return c - b**2 / (4 * a)

    def lead(best):
        return f"{best('peer') - best('dense'):.3f}"

    assert (
        f"PEER minus dense is {lead(lambda m: used[m][1])} at the rates used, "
        f"{lead(lambda m: min(at[m].values()))} at the best rate tried of each, "
        f"{lead(lambda m: minimum(at[m]))} by the minima of parabolas through the three rates, "
        f"and {lead(lambda m: minimum(at[m] | dict([used[m]])))} with the rate used as a fourth."
    ) in text("results/study/first.md")
