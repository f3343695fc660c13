"""A PEER layer beside SmolLM2's FFN: `python -m tests.study.inside.beside RUN`.

RUN has learnt recipes by that layer alone, and kept the checkpoint after its first step.

- results/study/inspect/beside.csv: how often one reading names its domain (naming.py), of ten
  domains, by PEER's experts, by those of the first step, whose queries are random, and by the units
  of the FFN of the block, of which those count that write most of each token.
- ablation_beside.csv, as ablations.py: the TOP experts of the highest lift in recipes are removed,
  and as many random ones of equal mass; two other domains are beside.
"""

import sys
from pathlib import Path

from experiments.finished.model import load_weights
from experiments.inspection.ablation.choosing import by_lift
from experiments.inspection.ablation.of_texts import text_mass
from experiments.inspection.ablation.result import rows_of_texts
from experiments.records.kept import kept_path
from tests.study.inside.ablations import ablated, line
from tests.study.inside.files import write_named, write_rows
from tests.study.inside.masses import by_tokens_alone, read_masses
from tests.study.inside.naming import named
from tests.study.inside.texts import DOMAINS, nats, opened, units, words

LEARNT = "recipes"
NAMED = [LEARNT, "hpo", *(f"validation/{name}" for name in DOMAINS)]
ABLATED = [LEARNT, "hpo", "validation/wiki_leads"]
TOKENS, ABLATED_TOKENS = 4096, 8192  # of each domain
TOP = 1024  # of 65,536: few have the mean mass or more, of which by_lift chooses
DRAWS = 2
PEER, FFN = "peer beside", "its FFN"


def layers_of(run):
    """PEER, and the FFN that it is beside."""
    peer = next(layer for layer in run.layers if layer.module.n_experts)
    ffn = next(layer for layer in run.layers if layer.block == peer.block and layer is not peer)
    return peer, ffn


def naming(run_dir):
    run = opened(run_dir, words(NAMED, TOKENS))
    peer, ffn = layers_of(run)
    read, by_token = read_masses(run.model, [peer, ffn], run.reading)
    tokens, values = read["token"], {}
    for what, layer in ((PEER, peer), (FFN, ffn)):
        values[what] = named(read[layer.name])
        alone = by_tokens_alone(tokens, by_token[layer.name])
        values[f"{what}, by tokens alone"] = named(read[layer.name], alone)
    values["token ids"] = named(tokens)
    load_weights(run.model, kept_path(run_dir, 1), 1)
    first = read_masses(run.model, [peer], run.reading)[0]
    values[f"{PEER}, first step"] = named(first[peer.name])
    pairs = [
        (PEER, FFN),
        (PEER, f"{PEER}, first step"),
        (PEER, "token ids"),
        *((one, f"{one}, by tokens alone") for one in (PEER, FFN)),
    ]
    write_named("beside.csv", values, tokens, pairs, 1 / len(NAMED))


def ablation(run_dir):
    run = opened(run_dir, words(ABLATED, ABLATED_TOKENS))
    peer, _ = layers_of(run)
    those = units(run, halved=True)
    mass = text_mass(run.model, peer, those, halved=True)
    chosen, whole = by_lift(mass, 0, TOP), nats(run.model, those)
    changes, about = ablated(run.model, peer, those, mass, chosen, DRAWS, whole)
    rows = [
        line("peer beside", LEARNT, about, row) | {"what": row.what.removeprefix("packages/")}
        for row in rows_of_texts(changes, those[0].name)
    ]
    write_rows("ablation_beside.csv", rows)


def main():
    run_dir = Path(sys.argv[1])
    naming(run_dir)
    ablation(run_dir)


if __name__ == "__main__":
    main()
