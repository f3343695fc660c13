"""Committed files of the study of docs/inspect_study.md."""

import csv
from pathlib import Path

from tests.study.inside.naming import averaged, p_of
from tests.study.records import ROOT

FOLDER = ROOT / "results" / "study" / "inspect"
FACTS = Path(__file__).with_name("facts.jsonl")


def write_rows(name, rows):
    """A CSV of results/study/inspect: numbers to six digits."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def read_rows(name):
    """Lines of such a file; numbers as numbers."""

    def value(text):
        try:
            return float(text)
        except ValueError:
            return text

    with (FOLDER / name).open(encoding="utf-8") as file:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(file)]


def holm(p):
    """Adjusted p of a family (Holm 1979)."""
    order = sorted(range(len(p)), key=p.__getitem__)
    found, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, p[i] * (len(p) - rank)))
        found[i] = worst
    return found


def columns_of(row):
    """A row of an ablation: each estimate with its ends, and p."""
    values = {}
    for part in ("chosen", "random", "excess"):
        values |= ends_of(part, getattr(row, part))
    return values | {"p": p_of(row.excess)}


def ends_of(what, estimate):
    """An estimate's value and ends, as columns."""
    low, high = estimate.interval()
    return {what: estimate.value, f"{what}_low": low, f"{what}_high": high}


def write_named(name, values, about, pairs, chance):
    """How often each of `values` (documents,) names its domain, and differences of the pairs that
    are there, corrected together. about: the documents, a Read.
    """
    rows = []
    for what, minus in [*((what, "") for what in values), *pairs]:
        if {what, minus} - {""} <= values.keys():
            estimate = averaged(about, values[what] - (values[minus] if minus else 0))
            low, high = estimate.interval()
            rows.append(
                {"what": what, "minus": minus, "n_documents": len(values[what]),
                 "value": estimate.value, "low": low, "high": high,
                 "p": p_of(estimate, 0 if minus else chance)}
            )  # fmt: skip
    write_rows(name, with_holm(rows))


def with_holm(rows):
    """Rows, with p_holm of their p."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows
