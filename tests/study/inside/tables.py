"""Prints the tables of docs/inspect_study.md: `python -m tests.study.inside.tables`."""

import numpy as np

from tests.study.inside.files import FOLDER, read_rows, with_holm

LAYERS = ("peer", "moe_fine", "dense")
PARTS = ("chosen", "random", "excess")


def table(head, rows):
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(row) + " |" for row in cells]


def number(row, what, digits=3, sign="+"):
    """Value and interval."""
    low, high = row[f"{what}_low"], row[f"{what}_high"]
    return f"{row[what]:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def small(p):
    return "< 1e-6" if p < 1e-6 else f"{p:.2g}"


def naming(name="specialise.csv"):
    rows = [
        [r["what"], f"{r['value']:.3f} ({r['low']:.3f} to {r['high']:.3f})", small(r["p_holm"])]
        for r in read_rows(name)
        if not r["minus"]
    ]
    return table(["read", "names its domain", "p"], rows)


def differences(name="specialise.csv"):
    rows = [
        [
            f"{r['what']} minus {r['minus']}",
            f"{r['value']:+.3f} ({r['low']:+.3f} to {r['high']:+.3f})",
            small(r["p_holm"]),
        ]
        for r in read_rows(name)
        if r["minus"]
    ]
    return table(["difference", "of documents", "p"], rows)


def null(name):
    rows = [
        [r["what"], f"{r['mean']:.4f}", f"{r['highest']:.4f}", f"{r['false_share']:.3f}"]
        for r in read_rows(name)
    ]
    return table(["labels drawn again", "mean", "highest of 200", "false at 5 %"], rows)


def ablations():
    """Lines of all layers that have a file, those of each kind corrected together."""
    found = [row for layer in LAYERS for row in ablation_rows(layer)]
    for what in ("target", "specificity"):
        with_holm([row for row in found if row["what"] == what])
    return found


def ablation_rows(layer):
    if not (FOLDER / f"ablation_{layer}.csv").exists():
        return []
    return read_rows(f"ablation_{layer}.csv")


def ablation(layer):
    rows = [
        [
            r["domain"],
            f"{r['n_documents']:.0f}",
            f"{r['share']:.1%}",
            *(number(r, of) for of in PARTS),
            small(r["p_holm"]),
        ]
        for r in ablations()
        if r["layer"] == layer and r["what"] == "specificity"
    ]
    head = [f"specificity, {layer}", "documents", "mass"]
    return table([*head, "its experts", "random ones", "difference", "p"], rows)


def ablation_beside(name):
    rows = [
        [r["what"], f"{r['n_documents']:.0f}", *(number(r, of) for of in PARTS)]
        for r in read_rows(name)
    ]
    return table(["change of", "documents", "its experts", "random ones", "difference"], rows)


def facts(name):
    rows = [[r["layer"], r["what"], *(number(r, of, 2) for of in PARTS)] for r in read_rows(name)]
    return table(["layer", "change of", "its experts", "random ones", "difference"], rows)


def taken_over(name):
    head = ["domain", "mass of new experts", "more than elsewhere", "p"]
    losses = ("gain", "without_new", "without_old")
    rows = [
        [
            r["what"],
            number(r, "share", 3, ""),
            number(r, "more"),
            small(r["p_holm"]),
            *(number(r, what, 2) for what in losses),
        ]
        for r in read_rows(name)
        if r["kind"] == "domain"
    ]
    return table([*head, "gained since the parent", "lost without new", "lost without old"], rows)


def taken_over_classes(name):
    rows = [
        [r["what"], number(r, "share", 3, ""), number(r, "more"), small(r["p_holm"])]
        for r in read_rows(name)
        if r["kind"] == "class"
    ]
    return table(["tokens", "mass of new experts", "more than of others", "p"], rows)


def last_domain(name):
    """By choice of experts, what they hold of the change; of random ones the mean of the draws, and
    the lowest and the highest.
    """
    found = {}
    for r in read_rows(name):
        by = r["by"].partition(" ")[0]
        found.setdefault((int(r["n"]), by), {}).setdefault((r["way"], r["text"]), []).append(r)
    rows = []
    for (n, by), own in sorted(found.items(), key=lambda one: one[0][0]):
        first = own["alone", "hpo"]
        cells = [f"{np.mean([r[of] for r in first]):.1%}" for of in ("mass", "distance")]
        for key in (("alone", "hpo"), ("back", "hpo"), ("back", "recipes")):
            parts = [r["part"] for r in own[key]]
            ends = own[key][0] if len(parts) == 1 else None
            low, high = (
                (min(parts), max(parts)) if ends is None else (ends["part_low"], ends["part_high"])
            )
            cells.append(f"{np.mean(parts):.3f} ({low:.3f} to {high:.3f})")
        if by != "all":
            rows.append([f"{n:,}", by, *cells])
    head = ["experts", "by", "mass", "movement", "hpo is learnt", "hpo is lost"]
    return table([*head, "recipes come back"], rows)


ALL = {
    "specialise.csv": (naming, differences),
    "specialise_null.csv": (null,),
    "facts.csv": (facts,),
    "taken_over.csv": (taken_over, taken_over_classes),
    "taken_over_naming.csv": (naming, differences),
    "last_domain.csv": (last_domain,),
    "beside.csv": (naming, differences),
    "ablation_beside.csv": (ablation_beside,),
}


def lines():
    """All of them."""
    found = []
    for name, several in ALL.items():
        if (FOLDER / name).exists():
            found += [one(name) for one in several]
    found += [ablation(layer) for layer in LAYERS if ablation_rows(layer)]
    return found


if __name__ == "__main__":
    print("\n\n".join("\n".join(one) for one in lines()))
