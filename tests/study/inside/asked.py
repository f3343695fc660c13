"""Are facts in experts of their own? `python -m tests.study.inside.asked NAME RUN ...`.

What this says of each run, N being 64 of PEER's experts, 2 of moe_fine's and 8 of dense units:

    python -m experiments.inspect ablate RUN layer=LAYER facts=tests/study/inside/facts.jsonl top=N

And p of a difference of 0. Rows "... elsewhere" are of the same experts with each fact's own target
after its siblings' prompts as its siblings: whether what is lost is the fact, or a token.
Writes results/study/inspect/facts.csv.
"""

import sys
from dataclasses import replace
from pathlib import Path

from experiments.inspection.ablation.choosing import Choice
from experiments.inspection.ablation.facts import read_facts
from experiments.inspection.questions.ablate import ablate_run
from tests.study.inside.files import FACTS, columns_of, write_rows
from tests.study.inside.texts import BLOCK

TOP = {"peer": 64, "moe_fine": 2, "dense": 8}


def elsewhere(facts):
    """Each fact with its own target after its siblings' prompts."""
    found = [
        replace(one, siblings=tuple((prompt, one.target) for prompt, _ in one.siblings))
        for one in facts.facts
    ]
    return replace(facts, digest=f"{facts.digest}, elsewhere", facts=tuple(found))


def main():
    rows, words = [], sys.argv[1:]
    facts = read_facts(FACTS)
    for name, run_dir in zip(words[::2], words[1::2], strict=True):
        for end, asked in (("", facts), (" elsewhere", elsewhere(facts))):
            found = ablate_run(Path(run_dir), Choice(top=TOP[name]), facts=asked, layer=BLOCK)
            rows += [line(name, end, found, row) for row in found.rows if keep(end, row.what)]
        write_rows("facts.csv", rows)


def keep(end, what):
    """Elsewhere, targets and controls are the same as before."""
    return not end or what in ("siblings", "specificity")


def line(name, end, found, row):
    values = {"layer": name, "what": f"{row.what}{end}", "n_facts": row.n_units}
    return values | {"mass_ratio": found.mass_ratio} | columns_of(row)


if __name__ == "__main__":
    main()
