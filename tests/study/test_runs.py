"""The committed runs are those that experiments plan, of what documents say that they have."""

import csv
import json
import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis import numbers
from experiments.config.paths import conf_dir
from experiments.points.planning import make_point, run_id_of
from tests.study import appendix
from tests.study.estimators import together
from tests.study.others import SWEEPS_OF_RETROFIT
from tests.study.planned import planned
from tests.study.rates import by_law
from tests.study.records import MODELS, RESULTS, ROOT, SEEDED, by, column, find, records, seeds
from tests.study.second import FOLDER, SMALLER, held
from tests.study.zoo import CHANGED, LARGE, best_trials, cells_of

SWEEPS = ("tuning", "isoflop", "experts", "causes")
N_TOKENS = 43_513_045  # of the packages' training split, in whole windows


def points(name):
    return planned(f"study_{name}")


# the first edition


def test_every_model_has_five_sizes_at_three_budgets():
    sizes = defaultdict(set)
    for p in points("isoflop"):
        if p.config.seed == 0:
            sizes[p.config.model_name, p.config.budget].add(p.config.size)
    budgets = sorted({budget for _, budget in sizes})
    assert len(budgets) == 3
    assert all(b / a >= 3 for a, b in pairwise(budgets))
    assert set(sizes) == {(model, budget) for model in MODELS for budget in budgets}
    assert all(len(found) == 5 for found in sizes.values())
    assert len({frozenset(sizes[model, budgets[0]]) for model in MODELS}) == 1


def test_every_model_was_tuned_at_the_same_rates_and_only_there():
    rates = defaultdict(set)
    for p in points("tuning"):
        if p.config.budget == 3e12:
            layer = (p.config.model_name, getattr(p.config.model, "gate", None))
            rates[layer].add(p.config.ladder.lr)
    assert {model for model, _ in rates} == set(MODELS)
    assert {frozenset(found) for found in rates.values()} == {frozenset({4e-3, 8e-3, 1.6e-2})}
    for name in ("isoflop", "experts"):
        used = Counter((m, b) for m, b, _ in
                       {(p.config.model_name, p.config.budget, p.config.ladder.lr)
                        for p in points(name)})  # fmt: skip
        assert set(used.values()) == {1}


def test_the_rates_used_are_those_that_the_tuning_found():
    """The lowest point of a parabola in ln(rate), at two digits; of a layer's gates the best.

    At the largest budget it is half of that, for every layer.
    """
    found = {}
    for (model, gate), own in by("study/tuning", "model", "gate", budget=3e12).items():
        losses = {column(r, "rate"): r.val_loss for r in own}
        a, b, _ = np.polyfit(np.log([*losses]), [*losses.values()], 2)
        best = (min(losses.values()), float(f"{np.exp(-b / a / 2):.2g}"), gate)
        found[model] = min(found.get(model, best), best)
    for p in points("isoflop"):
        _, rate, gate = found[p.config.model_name]
        share = 0.5 if p.config.budget == 3e13 else 1.0
        assert p.config.ladder.lr == pytest.approx(rate * share, rel=1e-9)
        assert getattr(p.config.model, "gate", None) == gate


def test_the_trunk_the_text_and_the_optimizer_are_the_same_for_all():
    of_all = [p for name in SWEEPS for p in points(name)]
    assert len({repr(p.config.data) for p in of_all}) == 1
    assert len({repr(p.config.trunk) for p in of_all}) == 1
    assert {p.config.ladder.name for p in of_all} == {"cpu"}
    assert max(p.plan.n_tokens for p in of_all) <= 4 * N_TOKENS
    apart_from_rate = {
        repr((o.table_lr, o.key_lr, o.weight_decay, o.beta2, o.warmup, o.grad_clip, o.schedule))
        for o in (p.config.optim for name in SWEEPS[:-1] for p in points(name))
    }  # the causes are changes of these
    assert len(apart_from_rate) == 1


def test_what_varies_over_experts_heads_and_norms_has_three_seeds():
    found = defaultdict(set)
    for p in points("experts"):
        layer = p.config.model
        key = (layer.n_experts, layer.n_heads, layer.top_k, layer.query_norm)
        found[key].add((p.config.budget, p.config.seed))
    assert all(len(own) % 3 == 0 for own in found.values())
    norms = defaultdict(set)
    for n_experts, n_heads, top_k, norm in found:
        if (n_heads, top_k) == (4, 16):
            norms[norm].add(n_experts)
    squares = {64**2, 128**2, 256**2, 512**2}
    assert norms == {"batch": squares, "none": squares}
    active = Counter(h * k for n, h, k, norm in found if (n, norm) == (128**2, "batch"))
    assert sum(count > 1 for count in active.values()) >= 3  # several heads at equal h k


@pytest.mark.parametrize("name", SWEEPS)
def test_the_committed_records_are_runs_of_the_sweep(name):
    of = {p.run_id: p for p in points(name)}
    assert records(f"study/{name}")
    for r in records(f"study/{name}"):
        assert r.run_id in of, f"{r.run_id} ({r.model}) is not of study_{name}"
        plan = of[r.run_id].plan
        assert (r.n_steps, r.n_params) == (plan.n_steps, plan.cost.n_params)
        assert r.flops_per_token == plan.cost.training_flops
        assert r.n_tokens / r.epochs == pytest.approx(N_TOKENS, rel=1e-9)
        assert r.status == "done"


@pytest.mark.parametrize("name", ["isoflop", "experts"])
def test_a_committed_page_is_small_and_has_each_figure_once(name):
    page = (RESULTS / name / "report.html").read_text()
    assert len(page.encode()) < 3_000_000
    drawn = re.findall(r'<figure class="drawing" id="([^"]+)"', page)
    assert len(drawn) == len(set(drawn)) > 2
    files = {path.stem for path in (RESULTS / name / "figures").glob("*.png")}
    assert {label.replace("_", "-") for label in files} <= set(drawn)


def test_the_page_says_what_the_records_do():
    page = (RESULTS / "isoflop" / "report.html").read_text()
    section = page[page.index('<section id="answer"') : page.index("</section>")]
    shown = re.sub(r"<[^>]+>", " | ", section)
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())
    for i, budget in enumerate(SEEDED):
        others = [m for m in MODELS if m != "dense"]
        differences = {m: seeds.by_pooled(m, "dense", budget) for m in others}
        for model, found in differences.items():
            assert numbers.with_interval(*found) in shown
            one = fits["budget_multipliers"]["factors"][str(budget)][model]
            by_records, *_ = seeds.multipliers(model, "dense")[i]
            assert one["value"] == pytest.approx(by_records, rel=1e-9)
            assert one["lower"] < by_records < one["upper"]
            assert numbers.with_interval(one["value"], one["lower"], one["upper"]) in shown
        said = re.search(rf"At {numbers.flops(budget)} FLOPs, loss (.*?)\.", shown)[1]
        listed = said.removeprefix("significantly lower than dense: ").partition(";")[0]
        assert set(listed.split(", ")) == {m for m in others if differences[m].upper < 0}


# the second edition


def test_the_main_runs_are_those_that_were_registered():
    """62 runs in the registered order, all sparse layers with the parameters of 64 dense ones."""
    plan = points("main_2")
    cells = [(p.config.budget, p.config.model_name, p.config.size, p.config.seed) for p in plan]
    assert len(cells) == len(set(cells)) == 62
    stages = [
        (1e13, {"dense", "none", "moe_fine", "pkm", "peer"}, 25),
        (3e13, {"none", "moe_fine", "peer"}, 15),
        (1e14, {"none", "moe_fine", "peer"}, 12),
        (3e13, {"dense", "pkm"}, 10),
    ]
    at = 0
    for budget, layers, n in stages:
        middle, n_seeds = {1e13: (4, 3), 3e13: (5, 3), 1e14: (6, 2)}[budget]
        each = {(middle, s) for s in range(n_seeds)} | {(middle - 1, 0), (middle + 1, 0)}
        expected = {(budget, layer, *one) for layer in layers for one in each}
        assert set(cells[at : at + n]) == expected
        at += n
    trunk = {p.config.size: p.plan.cost.n_params for p in plan if p.config.model_name == "none"}
    for p in plan:
        if p.config.model_name in ("moe_fine", "pkm", "peer"):
            dense = 8 * (16 * p.config.size) ** 2
            more = p.plan.cost.n_params - trunk[p.config.size]
            assert more / dense == pytest.approx(64, rel=0.03)
        assert p.plan.lr == pytest.approx(by_law(p.config.model_name, p.plan.n_tokens), rel=0.01)
    assert {p.run_id for p in plan} == {r.run_id for r in records("study/edition_2")}


@pytest.mark.parametrize(("folder", "n"), [(FOLDER, 14), (SMALLER, 2)])
def test_learning_curves_are_of_the_records(folder, n):
    curves = pd.read_csv(folder / "learning_curves.csv")
    known = {r.run_id: r for r in records(f"study/{folder.name}")}
    assert curves["run_id"].nunique() == n
    for run_id, curve in curves.groupby("run_id"):
        assert curve["step"].is_monotonic_increasing
        assert curve["n_tokens"].iloc[-1] == known[run_id].n_tokens
        assert abs(curve["loss"].iloc[-1] - known[run_id].val_loss) < 0.2


def test_the_committed_contrasts_are_those_of_the_records():
    saved, found = pd.read_csv(FOLDER / "contrast.csv"), held().to_frame()
    assert list(saved["verdict"]) == list(found["verdict"])
    for name in ("value", "value_lower", "value_upper", "p_holm"):
        assert saved[name].to_numpy() == pytest.approx(found[name].to_numpy(), rel=1e-4, abs=1e-6)
    first = pd.read_csv(RESULTS / "contrast" / "contrast.csv").query("layer == 'peer'")
    own = [together()["none", budget] for budget in SEEDED]
    assert [*first["difference"]] == pytest.approx([d.value.value for d in own], abs=1e-6)
    assert [*first["multiplier"]] == pytest.approx([d.multiplier.value for d in own], rel=1e-5)
    for folder in (FOLDER, RESULTS / "contrast"):
        figure = folder / "contrast_multipliers.png"
        assert figure.read_bytes().startswith(b"\x89PNG")


# layers since 2024


def test_each_rate_is_that_of_the_best_trial():
    best = best_trials()
    assert len(best) == 12 + len(LARGE)
    assert best.keys() == cells_of("zoo").keys() >= LARGE
    yaml = OmegaConf.load(conf_dir() / "experiment" / "zoo.yaml")
    grids = {(g["model"], g.get("n_experts")): g["ladder.lr"] for g in yaml.hydra.sweeper.grids}
    assert grids == pytest.approx({(m, n if (m, n) in LARGE else None): lr
                                   for (m, n), lr in best.items()})  # fmt: skip
    for cell, own in cells_of("zoo").items():
        assert {(r.seed, r.lr, r.status) for r in own} == {
            (s, best[cell], "done") for s in (1, 2, 3)
        }


@pytest.mark.long
def test_the_layers_of_the_yamls_are_those_of_the_records():
    """Though conf/model has other choices since: both yamls give the old ones, and the config of a
    record reads as the layer that it had. A second set is of the changed layers at the same rates.
    """
    ids = {r.run_id for r in records("study/zoo")}
    assert {p.run_id for p in planned("zoo")} == ids
    grids = [
        [{name: value for name, value in grid.items() if name != "ladder.lr"}
         for grid in OmegaConf.load(conf_dir() / "experiment" / f"{name}.yaml").hydra.sweeper.grids
         if grid["model"] in CHANGED]
        for name in ("zoo", "zoo_rates")
    ]  # fmt: skip
    assert grids[0] == grids[1]
    assert [grid["model"] for grid in grids[0]] == ["omni", "ultramem", "stem", "engram"]
    for first, *_ in [*cells_of("zoo").values(), *cells_of("zoo_rates").values()]:
        point = make_point(dict(first.config))
        assert point.run_id == first.run_id, first.model
        assert point.transformer.cost().n_params == first.n_params
    second = planned("zoo_2")
    rates = {m: own[0].lr for (m, _), own in cells_of("zoo").items() if m in CHANGED}
    assert {(p.config.model_name, p.config.seed) for p in second} == {
        (model, seed) for model in CHANGED for seed in (1, 2, 3)
    }
    assert all(p.config.optim.lr == rates[p.config.model_name] for p in second)
    assert ids.isdisjoint(p.run_id for p in second)


def test_what_is_found_of_each_layer_is_in_its_section():
    """docs/layers.md names no difference that the table has not."""
    layers = (ROOT / "docs" / "layers.md").read_text()
    peer = np.mean([r.val_loss for r in find("study/zoo", model="peer")])
    for model in sorted({m for m, _ in cells_of("zoo")} - {*MODELS}):
        section = layers[layers.index(f"\n## {model}\n") :]
        (found,) = re.findall(r"\*\*Found:\*\* (.*?)\n(?:- |\n)", section + "\n\n", re.DOTALL)[:1]
        away = re.findall(r"(-?\d\.\d{3})(?= nats)", " ".join(found.split()))
        own = [np.mean([r.val_loss for r in rs]) - peer
               for (m, _), rs in cells_of("zoo").items() if m == model]  # fmt: skip
        assert away, model
        assert {f"{abs(value):.3f}" for value in own} >= {value.lstrip("-") for value in away}, (
            model
        )


# what is generated, and ids


@pytest.fixture(scope="module")
def found():
    return appendix.sweeps()


def test_the_committed_appendix_is_that_of_the_records(found):
    again = "`python -m tests.study.appendix` writes it again"
    assert appendix.DOCUMENT.read_text() == appendix.document(found), again
    assert appendix.RUNS.read_text() == appendix.runs(found), again


def test_a_row_a_run_and_every_trial(found):
    rows = list(csv.DictReader(appendix.RUNS.read_text().splitlines()))
    by_id = {(name, r.run_id): r for name, own in found.items() for r in own}
    assert len(rows) == len(by_id)
    for row in rows:
        record = by_id.pop((row["sweep"], row["run_id"]))
        assert float(row["loss"]) == pytest.approx(record.val_loss, abs=1e-5)
        assert (int(row["n_tokens"]), int(row["seed"])) == (record.n_tokens, record.seed)
        assert float(row["lr"]) == pytest.approx(record.lr, rel=1e-5)
    for name in appendix.RATES:
        said = appendix.tried(found[name])
        assert all(f"{r.val_loss:.4f}" in said for r in found[name])


def test_runs_have_the_ids_of_their_configs():
    for sweep in SWEEPS_OF_RETROFIT:
        assert all(run_id_of(r.config) == r.run_id for r in records(sweep))
