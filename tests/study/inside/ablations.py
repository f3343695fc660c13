"""Does a domain need its experts? `python -m tests.study.inside.ablations NAME RUN`.

For each domain in turn, what experiments.ablate.ablate_on_texts finds without a sixteenth of the
layer's experts, those of the highest lift there.

Writes results/study/inspect/ablation_NAME.csv: the change of the target's loss and the specificity,
without the chosen, without random ones of equal mass, and the difference of both; p of that
difference being 0. share: of the mass of all domains, what the chosen have. The doc corrects for
all domains of all layers (Holm 1979).
"""

import sys
from pathlib import Path

from experiments.ablate import ablate_on_texts
from experiments.inspection.ablation.of_texts import text_mass
from experiments.inspection.ablation.result import SPECIFICITY
from tests.study.inside.files import columns_of, write_rows
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages, opened, units

TOKENS = 16384  # of each domain
SHARE = 16
DRAWS = 3
N_EXPERTS = {"peer": 16384, "moe_fine": 128, "dense": 256}


def main():
    name, run_dir = sys.argv[1], Path(sys.argv[2])
    layer = sys.argv[3] if len(sys.argv) > 3 else BLOCK
    n_experts = N_EXPERTS[name.split("_block")[0]]
    run = opened(run_dir, domains_of_packages(TOKENS), [layer])
    mass = text_mass(run.model, run.layers[0], units(run, halved=True), halved=True)
    shares = (mass / mass.sum(1, keepdims=True)).mean(0)
    rows = []
    for domain in DOMAINS:
        target = f"packages/validation/{domain}"
        found = ablate_on_texts(
            run_dir, ["packages"], domains_of_packages(TOKENS), layer=layer, domain=target,
            top=n_experts // SHARE, draws=DRAWS,
        )  # fmt: skip
        for row in found.rows:
            if row.what in (target, SPECIFICITY):
                share = float(shares[list(found.experts["all"])].sum())
                rows.append(line(name, domain, found, row) | {"share": share})
        print(rows[-1], flush=True)
        write_rows(f"ablation_{name}.csv", rows)


def line(name, domain, found, row):
    what = "specificity" if row.what == SPECIFICITY else "target"
    values = {"layer": name, "domain": domain, "what": what, "n_documents": row.n_units}
    return values | columns_of(found, row)


if __name__ == "__main__":
    main()
