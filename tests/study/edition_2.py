"""Second edition's tables of docs/study.md: `python -m tests.study.edition_2`."""

from functools import cache
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

from analysis.contrast.compute import contrast
from analysis.contrast.held import hold_to
from analysis.contrast.parts import contrast_parts
from analysis.contrast.preregistration import read_registration
from analysis.table.load import load_table
from analysis.table.sources import read_source
from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS

FOLDER = RESULTS / "edition_2"
REGISTERED = FOLDER / "preregistration.yaml"
SMALLER = RESULTS / "edition_2_smaller"
RATES = RESULTS / "rates_2" / "rates.json"
BUDGETS = {1e13: "1e13", 3e13: "3e13", 1e14: "1e14"}
NAMES = {"none": "no layer", "moe_fine": "`moe_fine`", "dense": "dense", "pkm": "PKM"}
REGISTERED_AS = {
    "gain": "gain: PEER minus no layer at 1e14",
    "mechanism": "mechanism: PEER minus `moe_fine`, mean of three budgets, within ±0.02?",
    "trend": "trend: slope of ln(multiplier) against no layer",
}
CLASSES = {"sparse": ["moe_fine", "pkm", "peer"], "rest": ["dense", "none"]}
_COMMON = {"rates": RATES, "layers": ["peer"], "classes": CLASSES}


def plain(budget):
    """One of BUDGETS: a fit's own is off in the last digits."""
    return float(f"{budget:.6g}")


@cache
def read():
    """Its runs as a table, and their losses by document."""
    source = read_source(FOLDER)
    return load_table(source), source.documents


@cache
def held():
    """What was registered, as the runs have it."""
    table, documents = read()
    return hold_to(read_registration(REGISTERED), table, documents=documents, rates=RATES)


@cache
def differences():
    """(other layer, budget): PEER minus it, by curves of all runs."""
    table, documents = read()
    found = contrast(table, documents=documents, **_COMMON).differences
    return {(one.baseline, plain(one.budgets[0])): one for one in found}


@cache
def differences_of_new():
    """Same of new targets: the token before and the target have not stood together before."""
    rows = contrast_parts(*read(), by="targets", **_COMMON).rows
    own = [row.difference for row in rows if row.part == "new"]
    return {(one.baseline, plain(one.budgets[0])): one for one in own}


@cache
def with_smaller():
    """Contrasts with the smaller runs at 3e13 that were not registered."""
    with TemporaryDirectory() as name:
        for path in [*find_records(FOLDER), *find_records(SMALLER)]:
            copy = Path(name) / path.parent.name / path.name
            copy.parent.mkdir()
            copyfile(path, copy)
        source = read_source(name)
        return contrast(load_table(source), documents=source.documents, **_COMMON)


def beside_smaller():
    """Layer, budget: its best size in width with the smaller runs, and PEER minus it."""
    found = with_smaller()
    each = {(one.baseline, plain(one.budgets[0])): one for one in found.differences}
    return [
        [NAMES.get(m.layer, m.layer), BUDGETS[plain(m.budget)], f"{m.size.value:.0f}",
         _cell(each, m.layer, plain(m.budget))]
        for m in found.minima
        if m.layer in ("none", "moe_fine", "peer") and m.budget > 2e13
    ]  # fmt: skip


def shown(estimate, form=".3f"):
    return "{} ({} to {})".format(*(format(value, form) for value in estimate))


def verdicts():
    """Primary contrast, its value and verdict; then those of new targets."""
    by_name = {one.primary.name: one for one in held().verdicts}
    table = []
    for name, label in REGISTERED_AS.items():
        cells = [label]
        for one in (by_name[name], by_name[f"{name} of new"]):
            p = f"{one.p_holm:.2f}" if one.p_holm >= 0.095 else f"{one.p_holm:.1g}"
            cells += [shown(one.value), f"{one.verdict} (p = {p})"]
        table.append(cells)
    return table


def answer():
    """PEER minus each layer at each budget, on all targets and on new ones, and what it saves."""
    every, new = differences(), differences_of_new()
    table = []
    for model, name in NAMES.items():
        table.append([name, *(_cell(every, model, b) for b in BUDGETS)])
        if model in ("none", "moe_fine"):
            table.append([f"{name}, new targets", *(_cell(new, model, b) for b in BUDGETS)])
    saved = [shown(every["none", b].multiplier, ".2f") for b in BUDGETS]
    return [*table, ["times the compute that no layer needs", *saved]]


def _cell(found, model, budget):
    one = found.get((model, budget))
    return "" if one is None else shown(one.value)


def targets():
    """Layer, budget, blocks, seeds; mean losses of all targets, repeated ones, new ones."""
    found = {}
    for record in map(read_record, find_records(FOLDER)):
        found.setdefault((record.model, record.budget, record.n_layers), []).append(record)
    table = []
    for budget, word in BUDGETS.items():
        for model in ("none", "moe_fine", "peer", "dense", "pkm"):
            for (name, at, blocks), own in sorted(found.items()):
                if (name, at) == (model, budget):
                    losses = [sum(of) / len(own) for of in zip(*map(by_targets, own), strict=True)]
                    cells = [f"{loss:.3f}" for loss in losses]
                    table.append([word, model, str(blocks), str(len(own)), *cells])
    return table


def by_targets(record):
    """Its losses of all targets, of repeated ones and of new ones, in nats/token."""
    d = record.documents
    n, repeated = sum(d["n_tokens"]), sum(d["n_repeated"])
    nats, of_repeated = sum(d["nats"]), sum(d["nats_repeated"])
    return nats / n, of_repeated / repeated, (nats - of_repeated) / (n - repeated)


if __name__ == "__main__":
    for rows in (verdicts(), answer(), targets(), beside_smaller()):
        for cells in rows:
            print("| " + " | ".join(cells) + " |")
        print()
