"""Does a domain need its experts? `python -m tests.study.inside.ablations NAME RUN`.

For each domain in turn, what experiments.ablate.ablate_on_texts finds without a sixteenth of the
layer's experts, those of the highest lift there.

Writes results/study/inspect/ablation_NAME.csv: the change of the target's loss and the specificity,
without the chosen, without random ones of equal mass, and the difference of both; p of that
difference being 0. The doc corrects them for all domains of all layers (Holm 1979).
"""

import sys
from pathlib import Path

from experiments.ablate import ablate_on_texts
from experiments.inspection.ablation.result import SPECIFICITY
from tests.study.inside.files import columns_of, write_rows
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages

TOKENS = 16384  # of each domain
SHARE = 16
DRAWS = 3
N_EXPERTS = {"peer": 16384, "moe_fine": 128, "dense": 256}


def main():
    name, run_dir = sys.argv[1], Path(sys.argv[2])
    layer = sys.argv[3] if len(sys.argv) > 3 else BLOCK
    n_experts = N_EXPERTS[name.split("_block")[0]]
    rows = []
    for domain in DOMAINS:
        target = f"packages/validation/{domain}"
        found = ablate_on_texts(
            run_dir, ["packages"], domains_of_packages(TOKENS), layer=layer, domain=target,
            top=n_experts // SHARE, draws=DRAWS,
        )  # fmt: skip
        for row in found.rows:
            if row.what in (target, SPECIFICITY):
                rows.append(line(name, domain, found, row))
        print(rows[-1], flush=True)
        write_rows(f"ablation_{name}.csv", rows)


def line(name, domain, found, row):
    what = "specificity" if row.what == SPECIFICITY else "target"
    values = {"layer": name, "domain": domain, "what": what, "n_documents": row.n_units}
    return values | columns_of(found, row)


if __name__ == "__main__":
    main()
