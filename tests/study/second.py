"""Numbers of docs/study.md and README: what was registered for the second edition, and its runs."""

import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from analysis.contrast.compute import compute_contrasts
from analysis.contrast.held import hold_to
from analysis.contrast.parts import contrast_parts
from analysis.contrast.preregistration import read_registration
from analysis.rates.saved import read_rates
from analysis.table.load import load_table
from analysis.table.sources import read_source
from experiments.records.files import find_records
from tests.analysis.contrast.reference import Reference
from tests.study.pilots import by_targets, gap
from tests.study.planned import planned
from tests.study.rates import LAYERS, by_law, fits_2
from tests.study.records import RESULTS, by, find, records

FOLDER, SMALLER = RESULTS / "edition_2", RESULTS / "edition_2_smaller"
RUNS = "study/edition_2"
RATES = RESULTS / "rates_2" / "rates.json"  # all forms of the law
FORMS = {"tokens": "n_tokens", "width": "d_model", "both": "d_model + n_tokens"}
BY_FORM = {name: Path(f"{RATES}:{label}") for name, label in FORMS.items()}
FROZEN = BY_FORM["tokens"]  # the law that the runs are by
BUDGETS = (1e13, 3e13, 1e14)
CLASSES = {"sparse": ["moe_fine", "pkm", "peer"], "rest": ["dense", "none"]}
THREE = ("none", "moe_fine", "peer")
_COMMON = {"rates": RATES, "layers": ["peer"], "classes": CLASSES}


def near(value, budget):
    """A fit's own budget is off in the last digits."""
    return abs(value / budget - 1) < 1e-3


@cache
def read():
    """Its runs as a table, and their losses by document."""
    source = read_source(FOLDER)
    return load_table(source), source.documents


@cache
def held(rates=FROZEN):
    """What was registered, as the runs have it."""
    table, documents = read()
    registered = read_registration(FOLDER / "preregistration.yaml")
    return hold_to(registered, table, documents=documents, rates=rates)


@cache
def differences():
    """PEER minus each layer at each budget, by curves of all runs."""
    table, documents = read()
    return compute_contrasts(table, documents=documents, **_COMMON).differences


@cache
def differences_of_new():
    """Same of new targets: the token before and the target have not stood together before."""
    rows = contrast_parts(*read(), by="targets", **_COMMON).rows
    return [row.difference for row in rows if row.part == "new"]


@cache
def with_smaller():
    """Contrasts with the smaller runs at 3e13 that were not registered."""
    source = read_together([*find_records(FOLDER), *find_records(SMALLER)])
    return compute_contrasts(load_table(source), documents=source.documents, **_COMMON)


def read_together(paths):
    """Source of these records, of whatever folders."""
    with TemporaryDirectory() as name:
        for path in paths:
            copy = Path(name) / path.parent.name / path.name
            copy.parent.mkdir()
            copyfile(path, copy)
        return read_source(name)


def one_of(model, budget, found=differences):
    """PEER minus a layer at a budget, by curves of all runs."""
    return next(d for d in found() if d.baseline == model and near(d.budgets[0], budget))


def verdict(name, rates=FROZEN):
    """Of a registered contrast its number, and the verdict with p as the document has it."""
    found = next(v for v in held(rates).verdicts if v.primary.name == name)
    return said(found, found.verdict)


def said(found, word):
    p = f"{found.p_holm:.2f}" if found.p_holm >= 0.095 else f"{found.p_holm:.1g}"
    return [*found.value], f"{word} (p = {p})"


def as_registered():
    """By how much PEER is below no layer at 1e14, with its interval."""
    value, low, high = verdict("gain")[0]
    return -value, -high, -low


@cache
def by_one_form(name):
    table, documents = read()
    how = {**_COMMON, "rates": BY_FORM[name]}
    return compute_contrasts(table, documents=documents, **how).differences


def of_one_form(name, budget):
    """PEER minus no layer with this form of the law of rates alone."""
    return one_of("none", budget, lambda: by_one_form(name)).value


@cache
def shares_of_forms():
    """Weights of the laws of all layers."""
    (laws,) = (own for own in read_rates(RATES).laws if len(own[0].models) > 1)
    labels = {label: name for name, label in FORMS.items()}
    return {labels[" + ".join(law.columns)]: law.share for law in laws}


def best_rate(form, n_layers):
    """Of no layer at 1e14 FLOPs, by this form of the law."""
    (laws,) = (own for own in read_rates(BY_FORM[form]).laws if len(own[0].models) > 1)
    rows = read()[0].query("model == 'none' and budget > 9e13 and n_layers == @n_layers")
    return math.exp(float((laws[0].design(rows, ["none"] * len(rows)) @ laws[0].theta)[0]))


@cache
def without_one():
    """Registered contrasts on all targets without each of PEER's runs, by name."""
    table, documents = read()
    registered = read_registration(FOLDER / "preregistration.yaml")
    found = []
    for row in table.index[table["model"] == "peer"]:
        rest = hold_to(registered, table.drop(row), documents=documents, rates=FROZEN)
        found.append({v.primary.name: v for v in rest.verdicts})
    return found


def lower(model, budget):
    """By how much PEER is lower, with its interval."""
    value, low, high = one_of(model, budget).value
    return -value, -high, -low


def best(model, budget, of=None):
    """A layer's lowest point."""
    minima = (of or held().every).minima
    return next(m for m in minima if m.layer == model and near(m.budget, budget))


def with_histories():
    """Runs whose thinned learning curves are beside the records."""
    files = (folder / "learning_curves.csv" for folder in (FOLDER, SMALLER))
    return {run_id for file in files for run_id in pd.read_csv(file)["run_id"]}


def smaller_minus(model):
    """PEER minus a layer at 3e13 with the smaller runs."""
    return one_of(model, 3e13, lambda: with_smaller().differences).value


def moved(model):
    """How far the lowest loss at 1e14 is from that without the smaller runs."""
    return best(model, 1e14, with_smaller()).loss.value - best(model, 1e14).loss.value


def off_law_rates():
    """Largest share by which a planned run's rate is off the law."""
    of = [p.plan.lr / by_law(p.config.model_name, p.plan.n_tokens) for p in main_2()]
    return max(abs(ratio - 1) for ratio in of)


def of_a_fit_written_out():
    """Gain by tests/analysis/contrast/reference.py, without documents and rates."""
    runs = pd.DataFrame(
        [{"layer": r.model, "budget": r.budget, "size": r.d_model, "loss": r.val_loss}
         for r in records(RUNS)]
    )  # fmt: skip
    of = {name: cls for cls, names in CLASSES.items() for name in names}
    return Reference(runs, of).difference(("peer", 1e14), ("none", 1e14))[:3]


def gain():
    return next(v.value for v in held().verdicts if v.primary.name == "gain")


def agrees(found, written):
    """Number is that of the fit written out, and its interval wider."""
    (value, low, high), wide = written, found
    return abs(wide.value - value) < 1e-5 and wide.lower < low < high < wide.upper


def targets(model, budget, n_layers):
    """Seeds, and mean losses of all targets, repeated ones, new ones."""
    own = find(RUNS, model=model, budget=budget, n_layers=n_layers)
    return len(own), *np.mean([by_targets(r) for r in own], axis=0)


def with_seeds():
    """Cells of several seeds, in the order of the document's table."""
    cells = by(RUNS, "model", "budget", "n_layers")
    order = ("none", "moe_fine", "peer", "dense", "pkm")
    keys = [key for key, own in cells.items() if len(own) > 1]
    return sorted(keys, key=lambda key: (key[1], order.index(key[0])))


def at_six(model, which):
    """At 1e14 and six blocks, as the table has it: 1, 2, 3 are all, repeated, new targets."""
    return round(targets(model, 1e14, 6)[which], 3)


def registered():
    """Runs in the registered order: budget, layer, blocks and seed, a set a stage."""
    stages = ((1e13, LAYERS), (3e13, THREE), (1e14, THREE), (3e13, ("dense", "pkm")))
    middle = {1e13: (4, 3), 3e13: (5, 3), 1e14: (6, 2)}  # blocks, seeds
    found = []
    for budget, layers in stages:
        n, seeds = middle[budget]
        each = [*((n, seed) for seed in range(seeds)), (n - 1, 0), (n + 1, 0)]
        found.append({(budget, layer, *own) for layer in layers for own in each})
    return found


def planned_main():
    """Same of the plan, cut where the stages end."""
    of = [(p.config.budget, p.config.model_name, p.config.size, p.config.seed) for p in main_2()]
    ends = np.cumsum([len(stage) for stage in registered()])
    assert len(of) == len(set(of)) == ends[-1]
    return [set(of[a:b]) for a, b in pairwise([0, *ends])]


def main_2():
    return planned("study_main_2")


def params_of_dense(point):
    """A sparse layer's, those of a dense one of its width = 1."""
    size = point.config.size
    (trunk,) = {
        p.plan.cost.n_params
        for p in main_2()
        if (p.config.model_name, p.config.size) == ("none", size)
    }
    return (point.plan.cost.n_params - trunk) / (8 * (16 * size) ** 2)


def most_tokens():
    """Of the planned runs, those of the search = 1."""
    most = max(p.plan.n_tokens for p in main_2())
    return most / fits_2()[1]["ranges"]["n_tokens"][1]


def gaps(budget, **where):
    """New less repeated of each run."""
    return [gap(r) for r in find(RUNS, budget=budget, **where)]


def paper_multiplier():
    """Of its lowest perplexities, with dense's joined by a line in ln C."""
    dense, peer = (23.71, 18.31), (20.63, 16.45)
    slope = math.log(dense[0] / dense[1]) / math.log(2e19 / 6e18)
    return [math.exp(math.log(d / p) / slope) for d, p in zip(dense, peer, strict=True)]
