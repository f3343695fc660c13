"""Rows of the tables of docs/inspect_study.md, from the committed files."""

import numpy as np

from tests.study.inside.files import read_rows, with_holm


def small(p):
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"


def ends(row, what):
    return row[what], row[f"{what}_low"], row[f"{what}_high"]


def parts(row):
    return [ends(row, of) for of in ("chosen", "random", "excess")]


def named_rows(name, minus=False):
    """How often one reading names its domain, or the differences."""
    own = [r for r in read_rows(name) if bool(r["minus"]) == minus]
    return [[r["value"], r["low"], r["high"], small(r["p_holm"])] for r in own]


def ablation(layer):
    """Specificity by domain: documents, mass, and what is lost; all layers corrected together."""
    found = [r for name in ("peer", "moe_fine", "dense") for r in read_rows(f"ablation_{name}.csv")]
    own = with_holm([r for r in found if r["what"] == "specificity"])
    return [
        [r["n_documents"], 100 * r["share"], parts(r), small(r["p_holm"])]
        for r in own
        if r["layer"] == layer
    ]


def taken_over(kind):
    """Mass of new experts by domain or class of tokens; of domains what is lost without."""
    lost = ("gain", "without_new", "without_old") if kind == "domain" else ()
    return [
        [ends(r, "share"), ends(r, "more"), small(r["p_holm"]), [ends(r, what) for what in lost]]
        for r in read_rows("taken_over.csv")
        if r["kind"] == kind
    ]


def last_domain():
    """By choice of experts, what they hold of the change; of random ones the mean of the draws, and
    the lowest and the highest.
    """
    found = {}
    for r in read_rows("last_domain.csv"):
        by = r["by"].partition(" ")[0]
        found.setdefault((int(r["n"]), by), {}).setdefault((r["way"], r["text"]), []).append(r)
    rows = []
    for (_, by), own in sorted(found.items(), key=lambda one: one[0][0]):
        first = own["alone", "hpo"]
        row = [100 * np.mean([r[of] for r in first]) for of in ("mass", "distance")]
        for key in (("alone", "hpo"), ("back", "hpo"), ("back", "recipes")):
            each = [r["part"] for r in own[key]]
            one = ends(own[key][0], "part")[1:] if len(each) == 1 else (min(each), max(each))
            row += [np.mean(each), *one]
        rows += [row] if by != "all" else []
    return rows
