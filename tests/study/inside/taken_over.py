"""What new experts have taken over: `python -m tests.study.inside.taken_over GROWN PARENT`.

Writes results/study/inspect/taken_over.csv, of the eight domains and of the classes of tokens,
documents being the unit:

- share: of the mass of gates there, what the new experts have; `more` is that less the mean of the
  other domains (or of the other tokens), and p is of 0;
- without new, without old: by how much the loss rises where these write nothing;
- gain: the parent's loss less the grown run's. It has been trained on, too.

And taken_over_spread.csv: the standard deviation of shares over domains, beside 1,000 draws of as
many rows of sub-keys as if they were the new ones. taken_over_naming.csv: how often one reading
names its domain (naming.py), by the new experts, by the old ones, and by the parent's.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from experiments.inspection.ablation.result import ratio, weighted
from experiments.inspection.classes import CLASSES
from experiments.inspection.editing.applying import removed
from experiments.inspection.interface import listening
from tests.study.inside.files import ends_of, with_holm, write_named, write_rows
from tests.study.inside.masses import read_masses
from tests.study.inside.naming import Read, named, p_of
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages, nats, opened, units

TOKENS = 16384  # of each domain
DRAWS = 1000


def part(read, chosen):
    """Of some experts alone."""
    return Read(mass=read.mass[:, chosen].tocsr(), domain=read.domain, tokens=read.tokens)


def shares(of_new, of_all, groups):
    """An estimate a group: its share, and less the mean of the others. of_new, of_all (documents,
    groups): masses; groups that one document has are not independent, which is not counted here.
    """
    own = [ratio(of_new[has, g], of_all[has, g]) for g in groups for has in [of_all[:, g] > 0]]
    rest = -1 / (len(own) - 1)
    more = [
        weighted([(1.0 if i == j else rest, other) for j, other in enumerate(own)])
        for i in range(len(own))
    ]
    return list(zip(own, more, strict=True))


def by_class(run, n_old):
    """(documents, classes): the mass of new experts, and of all."""
    found, place = [], {}

    def hear(layer, x, given):
        slots = layer.layer.slots(x, given)
        gates = slots.gates.double()
        new = torch.where(slots.experts >= n_old, gates, 0).sum(1).numpy()
        for i, values in enumerate((new, gates.sum(1).numpy())):
            np.add.at(found[i], (place["rows"], place["classes"]), values)

    n = 0
    names = {}
    with torch.no_grad(), listening(run.layers, hear):
        for text, ids, _, documents in run.reading.batches():
            keys = [(text, number) for number in documents.ravel().tolist()]
            rows = np.array([names.setdefault(key, len(names)) for key in keys])
            n = len(names)
            found = [np.pad(one, ((0, n - len(one)), (0, 0))) for one in found] or [
                np.zeros((n, len(CLASSES))) for _ in range(2)
            ]
            place.update(rows=rows, classes=run.reading.classes[ids.numpy().ravel()])
            run.model(ids)
    return found


def spread(of_rows, domain, n_old):
    """(observed, draws): the standard deviation over domains of the share of the new rows."""
    by_domain = np.array([of_rows[domain == d].sum(0) for d in range(domain.max() + 1)])
    by_domain /= by_domain.sum(1, keepdims=True)
    rng = np.random.default_rng(0)
    n = by_domain.shape[1]
    drawn = [by_domain[:, rng.permutation(n)[n_old:]].sum(1).std() for _ in range(DRAWS)]
    return by_domain[:, n_old:].sum(1).std(), np.array(drawn)


def main():
    grown, parent = Path(sys.argv[1]), Path(sys.argv[2])
    words = domains_of_packages(TOKENS)
    run, before = opened(grown, words, [BLOCK]), opened(parent, words, [BLOCK])
    (layer,), n_old = run.layers, before.layers[0].n_experts
    read = read_masses(run.model, run.layers, run.reading)[0][BLOCK]
    old, new = np.arange(n_old), np.arange(n_old, layer.n_experts)
    there = read_masses(before.model, before.layers, before.reading)[0][BLOCK]
    reads = {"all experts": read, "new experts": part(read, new), "old experts": part(read, old)}
    values = {what: named(one) for what, one in (*reads.items(), ("parent", there))}
    pairs = [("new experts", "old experts"), ("all experts", "parent"), ("old experts", "parent")]
    write_named("taken_over_naming.csv", values, read, pairs, 1 / len(DOMAINS))

    those = units(run)
    now, then = nats(run.model, those), nats(before.model, those)
    lost = {}
    for what, experts in (("without_new", new), ("without_old", old)):
        with removed(layer, experts.tolist()):
            lost[what] = nats(run.model, those)
    mass = np.asarray(read.mass.sum(1)).ravel(), np.asarray(read.mass[:, new].sum(1)).ravel()
    own = np.eye(len(DOMAINS))[read.domain]
    rows = []
    found = shares(own * mass[1][:, None], own * mass[0][:, None], range(len(DOMAINS)))
    for d, (share, more) in enumerate(found):
        row = line(DOMAINS[d], "domain", share, more)
        for what, after in (*lost.items(), ("gain", then)):
            size = now[d][1]
            told = size > 0
            row |= ends_of(what, ratio((after[d][0] - now[d][0])[told], size[told]))
        rows.append(row)
    of_new, of_all = by_class(run, n_old)
    some = [c for c in range(len(CLASSES)) if of_all[:, c].sum() > 0]
    for c, (share, more) in zip(some, shares(of_new, of_all, some), strict=True):
        rows.append(line(CLASSES[c], "class", share, more))
    heads = dict.fromkeys(rows[0], "")
    write_rows("taken_over.csv", with_holm([heads | row for row in rows]))
    columns = layer.layer.grid()[1]
    n_rows = layer.n_experts // columns
    of_rows = np.asarray(read.mass.toarray()).reshape(-1, n_rows, columns).sum(2)
    observed, drawn = spread(of_rows, read.domain, n_old // columns)
    write_rows(
        "taken_over_spread.csv",
        [{"draws": DRAWS, "new": float(observed), "mean": float(drawn.mean()),
          "highest": float(drawn.max()), "as_far": float((drawn >= observed).mean())}],
    )  # fmt: skip


def line(what, kind, share, more):
    return {
        "what": what,
        "kind": kind,
        **ends_of("share", share),
        **ends_of("more", more),
        "p": p_of(more),
    }


if __name__ == "__main__":
    main()
