"""Kinds of targets in the study's third edition, as results/study/edition_3/registration.md has
them under *Copying*: is PEER's lead on targets that are neither repeated nor seen, and when does a
layer begin to copy?

Losses of a run's end are in its record. Those of kept checkpoints are in
results/study/edition_3/copying.csv, which `python -m tests.study.copying --kept RUN ...` makes
from weights.

    python -m tests.study.kinds
"""

import csv
import math
from collections import defaultdict
from functools import cache

import numpy as np

from tests.study.pilots import by_targets
from tests.study.pilots import gap as gap_of
from tests.study.place import FIRST as SECOND
from tests.study.place import THIRD, class_of
from tests.study.records import RESULTS, find, records, student
from tests.study.trend import cell_of, loss_of, pooled

TABLE = RESULTS / "edition_3" / "copying.csv"
COLUMNS = ("run_id", "step", "n_tokens", "loss", "repeated", "seen", "neither")
KINDS = COLUMNS[-3:]
BUDGET, SIZES, SEED, SMALL = 1e14, (5, 7), 1, 1e13
BEGUN = 1.25  # nats/token between targets that are not repeated and repeated ones


def by_kind(sums):
    """Losses of all targets and of each kind, from the sums of a ByDocument's columns."""
    n = sums["n_tokens"] - sums["n_repeated"] - sums["n_seen"]
    nats = sums["nats"] - sums["nats_repeated"] - sums["nats_seen"]
    return {
        "loss": sums["nats"] / sums["n_tokens"],
        "repeated": sums["nats_repeated"] / sums["n_repeated"],
        "seen": sums["nats_seen"] / sums["n_seen"],
        "neither": nats / n,
    }


def sums_of(record):
    """Over its documents. None of a record that has no seen targets."""
    about = record.documents or {}
    if "n_seen" not in about:
        return None
    return {k: sum(about[k]) for k in about if k.startswith(("n_", "nats"))}


def neither_of(record):
    sums = sums_of(record)
    return sums and by_kind(sums)["neither"]


# The registered contrast


@cache
def run(model, size):
    """The one of 1e14 that the registration names."""
    (found,) = (
        r
        for r in find(THIRD, model=model, n_layers=size, seed=SEED)
        if cell_of(r)[2] == BUDGET and r.config["trunk"]["ffn_blocks"] == "middle"
    )
    return found


def at(model, size, kind):
    """Loss of a kind of targets, or of all of them."""
    return by_kind(sums_of(run(model, size)))[kind]


def minus(kind, size=None):
    """PEER minus none, of a size or the mean over both."""
    sizes = SIZES if size is None else (size,)
    return float(np.mean([at("peer", n, kind) - at("none", n, kind) for n in sizes]))


def noise():
    """Standard deviation and its degrees of freedom, by class: the larger of two budgets'."""
    known = pooled(neither_of)
    return {name: known[name, c] for name, c in budgets_of_noise().items()}


def budgets_of_noise():
    """By class the budget whose noise is the larger, of those with two runs of a cell that have the
    kinds.
    """
    known = pooled(neither_of)
    return {
        name: max((c for c in (SMALL, BUDGET) if (name, c) in known), key=lambda c: known[name, c])
        for name in ("sparse", "rest")
    }


@cache
def neither():
    """PEER minus none, with its interval by Satterthwaite's degrees of freedom."""
    return of_noise(noise())


def with_noise_of_all():
    """As neither(), by the noise that the loss of all targets has at 1e14: exploratory."""
    return of_noise({name: pooled(loss_of)[name, BUDGET] for name in ("sparse", "rest")})


def of_noise(by_class):
    each = defaultdict(float)
    for model in ("peer", "none"):
        each[class_of(model)] += by_class[class_of(model)][0] ** 2 / len(SIZES)
    variance = sum(each.values())
    dof = variance**2 / sum(v**2 / by_class[k][1] for k, v in each.items())
    return student(minus("neither"), math.sqrt(variance), dof)


def shares():
    """Shares of the targets, by kind."""
    sums = sums_of(run("peer", SIZES[0]))
    n, repeated, seen = (sums[k] for k in ("n_tokens", "n_repeated", "n_seen"))
    return {"repeated": repeated / n, "seen": seen / n, "neither": 1 - (repeated + seen) / n}


def parts(size=None):
    """Part of each kind in PEER minus none on all targets, in nats per token of all."""
    return {kind: share * minus(kind, size) for kind, share in shares().items()}


def ends(seed):
    """Both layers and sizes: loss of new targets, and its distance to that of repeated ones.
    Seed 0 is of the second edition.
    """
    found = {}
    for model in ("none", "peer"):
        for size in SIZES:
            where = {"model": model, "n_layers": size, "seed": seed}
            (own,) = (r for r in find(SECOND if seed == 0 else THIRD, **where)
                      if cell_of(r)[2] == BUDGET)  # fmt: skip
            found[model, size] = by_targets(own)[2], gap_of(own)
    return found


def new_minus(seed):
    """PEER minus none on new targets, the mean over both sizes."""
    of = ends(seed)
    return float(np.mean([of["peer", n][0] - of["none", n][0] for n in SIZES]))


def minus_where_both_copy(column):
    """PEER minus none at six blocks, the second edition's two seeds: of by_targets' columns."""
    means = {
        model: np.mean([by_targets(r)[column] for r in find(SECOND, model=model, n_layers=6)
                        if cell_of(r)[2] == BUDGET])
        for model in ("peer", "none")
    }  # fmt: skip
    return float(means["peer"] - means["none"])


# When a layer begins to copy


def read_kept():
    """Lines of TABLE: losses in nats/token."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    types = (str, int, int, float, float, float, float)
    return [{k: t(row[k]) for k, t in zip(COLUMNS, types, strict=True)} for row in rows]


def write_kept(rows):
    """By run and step; losses to six digits."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in sorted(rows, key=lambda row: (row["run_id"], row["step"])):
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


@cache
def course(run_id):
    """Losses at the kept checkpoints and at the end, the first one first."""
    (record,) = (r for r in records(THIRD) if r.run_id == run_id)
    end = {"run_id": run_id, "step": record.n_steps, "n_tokens": record.n_tokens}
    own = [row for row in read_kept() if row["run_id"] == run_id]
    return [*own, {**end, **by_kind(sums_of(record))}]


def gap(row):
    """Loss of targets that are not repeated, minus that of repeated ones."""
    of = shares()
    seen = of["seen"] / (of["seen"] + of["neither"])
    return seen * row["seen"] + (1 - seen) * row["neither"] - row["repeated"]


def begins(run_id):
    """The first line at which the run has begun to copy; None if it has not by its end."""
    return next((row for row in course(run_id) if gap(row) > BEGUN), None)


def share_of_run(row):
    return row["step"] / course(row["run_id"])[-1]["step"]


def gaps(run_id):
    """Its lines: at each tenth of its compute, where all were kept."""
    return [gap(row) for row in course(run_id)]


def over_training(kind, size):
    """PEER minus none at each tenth of the runs of 1e14, whose compute is the same."""
    both = zip(*(course(run(model, size).run_id) for model in ("peer", "none")), strict=True)
    return [of_peer[kind] - of_none[kind] for of_peer, of_none in both]


def when(run_id):
    """Share of its compute by which it has begun, to a tenth, or a dash."""
    row = begins(run_id)
    return "-" if row is None else f"{share_of_run(row):.1f}"


def scored():
    """Runs of which kept checkpoints are scored, by budget, size, layer and seed."""
    ids = {row["run_id"] for row in read_kept()}
    own = [r for r in records(THIRD) if r.run_id in ids]
    return sorted(own, key=lambda r: (cell_of(r)[2], r.n_layers, r.model, r.seed))


def main():
    print("shares of targets", {k: round(v, 4) for k, v in shares().items()})
    for key, (s, dof) in sorted(pooled(neither_of).items()):
        print(f"noise of neither, {key[0]} at {key[1]:g}: {s:.4f}, {dof} degrees of freedom")
    for size in (*SIZES, None):
        each = {kind: round(minus(kind, size), 4) for kind in ("loss", *KINDS)}
        added = {kind: round(v, 4) for kind, v in parts(size).items()}
        print(f"PEER minus none, {size or 'mean'} blocks: {each}; parts of the loss {added}")
    print("registered, neither:", neither(), f"p before correction {neither().p:.2g}")
    print("with the noise of all targets at 1e14:", with_noise_of_all())
    for seed in (0, SEED):
        apart = {cell: round(own[1], 3) for cell, own in ends(seed).items()}
        print(f"seed {seed}: new targets {new_minus(seed):.4f}, new less repeated {apart}")
    for record in scored():
        apart = " ".join(f"{value:.2f}" for value in gaps(record.run_id))
        about = f"{record.model}, {record.n_layers} blocks, {cell_of(record)[2]:g}"
        print(f"{about}, seed {record.seed}, {record.run_id}: {apart}; begun {when(record.run_id)}")
    for size in SIZES:
        for kind in ("loss", *KINDS):
            each = " ".join(f"{value:+.3f}" for value in over_training(kind, size))
            print(f"PEER minus none over training, {size} blocks, {kind}: {each}")


if __name__ == "__main__":
    main()
