"""Committed runs are those that experiments plan, of what documents say that they have."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis import numbers
from analysis.__main__ import main as analysis
from experiments.config.paths import conf_dir
from experiments.points.planning import compute_run_id, make_point
from tests.analysis.hand_made import of_few_draws
from tests.study import appendix
from tests.study.estimators import together
from tests.study.learnt import SWEEPS_OF_RETROFIT
from tests.study.planned import planned
from tests.study.records import MODELS, RESULTS, ROOT, SEEDED, find, records, seeds
from tests.study.second import FOLDER, SMALLER, held
from tests.study.zoo import CHANGED, cells_of

SWEEPS = ("tuning", "isoflop", "experts", "causes")
N_TOKENS = 43_513_045  # of the packages' training split, in whole windows


# the first edition


@pytest.mark.parametrize("name", SWEEPS)
def test_the_committed_records_are_runs_of_the_sweep(name):
    of = {p.run_id: p for p in planned(f"study_{name}")}
    assert records(f"study/{name}")
    for r in records(f"study/{name}"):
        assert r.run_id in of, f"{r.run_id} ({r.model}) is not of study_{name}"
        plan = of[r.run_id].plan
        assert (r.n_steps, r.n_params) == (plan.n_steps, plan.cost.n_params)
        assert r.flops_per_token == plan.cost.training_flops
        assert r.n_tokens / r.epochs == pytest.approx(N_TOKENS, rel=1e-9)
        assert r.status == "done"


def make_page(name, out):
    """A sweep's page, which is small and has each of its figures once. Pages are not committed."""
    with of_few_draws():
        assert analysis(["report", str(RESULTS / name), "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert len(page.encode()) < 3_000_000
    drawn = re.findall(r'<figure class="drawing" id="([^"]+)"', page)
    assert len(drawn) == len(set(drawn)) > 2
    assert {path.stem.replace("_", "-") for path in out.glob("figures/*.png")} <= set(drawn)
    return page


def test_a_page_of_experts_can_be_made(tmp_path):
    make_page("experts", tmp_path)


def test_the_page_says_what_the_records_do(tmp_path):
    page = make_page("isoflop", tmp_path)
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
    again = {r.run_id for r in records("study/zoo_rates_2")}
    assert {p.run_id for p in planned("zoo_rates_2")} == again


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
        assert all(compute_run_id(r.config) == r.run_id for r in records(sweep))
