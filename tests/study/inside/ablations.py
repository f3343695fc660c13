"""Does a domain need its experts? `python -m tests.study.inside.ablations NAME RUN`.

For each domain in turn, what `inspect ablate` finds without a sixteenth of the layer's experts,
those of the highest lift there:

    python -m experiments.inspect ablate RUN texts=packages domain=DOMAIN top=N draws=3 ...

Here the whole model is scored once for all domains. Writes results/study/inspect/ablation_NAME.csv:
the change of the target's loss and the specificity, without the chosen, without random ones of
equal mass, and the difference of both; p of that difference being 0. share: of the mass of all
domains, what the chosen have. The doc corrects for all domains of all layers (Holm 1979).
"""

import sys
from pathlib import Path

import numpy as np

from experiments.inspection.ablation.choosing import by_lift, equal_mass
from experiments.inspection.ablation.of_texts import text_mass
from experiments.inspection.ablation.result import SPECIFICITY, Changes, rows_of_texts
from experiments.inspection.editing.applying import removed
from tests.study.inside.files import columns_of, write_rows
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages, nats, opened, units

TOKENS = 16384  # of each domain
SHARE = 16
DRAWS = 3


def main():
    name, run_dir = sys.argv[1], Path(sys.argv[2])
    words = [*domains_of_packages(TOKENS), "evaluation.batch_size=32"]
    run = opened(run_dir, words, [BLOCK])
    (layer,), those = run.layers, units(run, halved=True)
    mass = text_mass(run.model, layer, those, halved=True)
    whole, rows = nats(run.model, those), []
    for d, domain in enumerate(DOMAINS):
        chosen = by_lift(mass, d, layer.n_experts // SHARE)
        changes, about = ablated(run.model, layer, those, mass, chosen, DRAWS, whole)
        for row in rows_of_texts(changes, those[d].name):
            if row.what in (those[d].name, SPECIFICITY):
                rows.append(line(name, domain, about, row))
        print(rows[-1], flush=True)
        write_rows(f"ablation_{name}.csv", rows)


def ablated(model, layer, those, mass, chosen, n_draws, whole):
    """Of each text its Changes without the chosen experts, and without as many random ones of equal
    mass, n_draws times; and their mass_ratio and share. whole: nats with all of them.
    """
    overall, rng = (mass / mass.sum(1, keepdims=True)).mean(0), np.random.default_rng(0)
    draws = [equal_mass(overall, chosen, rng) for _ in range(n_draws)]
    without = []
    for experts in (chosen, *draws):
        with removed(layer, experts.tolist()):
            without.append(nats(model, those))
    share = overall[chosen].sum()
    about = {
        "mass_ratio": np.mean([overall[draw].sum() for draw in draws]) / share,
        "share": share,
    }
    return [changed(i, one, whole, without) for i, one in enumerate(those)], about


def changed(i, one, whole, without):
    """Of one text's documents of odd numbers: those of even numbers have chosen the experts."""
    size = whole[i][1]
    unit = np.flatnonzero((size > 0) & (np.arange(one.n) % 2 == 1))
    change = np.stack([found[i][0] - whole[i][0] for found in without])[:, unit]
    return Changes(name=one.name, unit=unit, tokens=size[unit], chosen=change[0], drawn=change[1:])


def line(name, domain, about, row):
    what = "specificity" if row.what == SPECIFICITY else "target"
    values = {"layer": name, "domain": domain, "what": what, "n_documents": row.n_units}
    return values | {key: float(value) for key, value in about.items()} | columns_of(row)


if __name__ == "__main__":
    main()
