"""Do experts specialise by domain? `python -m tests.study.inside.specialise NAME RUN ...`.

Writes results/study/inspect/specialise.csv: how often one reading names its domain (naming.py), by
the layer of the middle block of runs, peer, moe_fine or dense. Beside each, of the same documents:

- untrained: the run's layer and trunk at their first weights;
- by tokens alone: each token reads what it does on average (masses.py).

And of PEER the experts of a first sub-key as one, which are as many as moe_fine's experts; and the
token ids themselves. Differences are paired by document, and corrected together (Holm 1979).
specialise_null.csv: the same where documents' domains are drawn again, 200 times: the mean, the
highest, and the share of draws whose interval of 95 % leaves out chance.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.finished.model import run_vocabulary, scored_point
from experiments.inspection.interface import inspected_layers
from experiments.kernels.ops import Execution
from experiments.training.starting import build_model
from tests.study.inside.files import holm, write_rows
from tests.study.inside.masses import by_first_key, by_tokens_alone, read_masses
from tests.study.inside.naming import Read, averaged, named, p_of, permuted
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages, opened

CHANCE = 1 / len(DOMAINS)
TOKENS = 16384  # of each domain
DRAWS = 200
PAIRS = (  # what, minus what
    ("peer", "dense"),
    ("moe_fine", "dense"),
    ("peer by first sub-key", "dense"),
    ("peer by first sub-key", "moe_fine"),
    *((one, f"{one}, untrained") for one in ("peer", "moe_fine", "dense")),
    *((one, f"{one}, by tokens alone") for one in ("peer", "moe_fine", "dense")),
    ("peer", "token ids"),
    ("peer", "peer, dense layer before"),
)


def untrained(run_dir, record):
    """The run's model before its first step."""
    point = scored_point(run_dir, record, [])
    model = build_model(point, run_vocabulary(run_dir, record, point))
    model.set_execution(Execution(kernel=point.config.kernel))
    return model.eval()


def values_of(name, run_dir):
    """(documents,) by what: how often a reading names the document's domain; the documents; and
    what is found where labels say nothing. Kept beside the run.
    """
    kept = run_dir / "named.npz"
    if not kept.exists():
        record, model, layers, reading = opened(run_dir, domains_of_packages(TOKENS))
        read, by_token = read_masses(model, list(layers.values()), reading)
        own, tokens = read[BLOCK], read["token"]
        reads = {name: own}
        alone = named(own, by_tokens_alone(tokens, by_token[BLOCK]))
        if name == "peer":
            _, columns = layers[BLOCK].layer.grid()
            reads["peer by first sub-key"] = by_first_key(own, columns)
            reads["peer, dense layer before"] = read["blocks.0.ffn"]
            reads["token ids"] = tokens
        model = untrained(run_dir, record)
        reads[f"{name}, untrained"] = read_masses(model, inspected_layers(model, [BLOCK]), reading)[
            0
        ][BLOCK]
        values = {what: named(one) for what, one in reads.items()}
        values[f"{name}, by tokens alone"] = alone
        rng, drawn = np.random.default_rng(0), []
        for _ in range(DRAWS):
            one = permuted(own, rng)
            estimate = averaged(one, named(one))
            drawn.append((estimate.value, p_of(estimate, CHANCE)))
        np.savez(kept, domain=own.domain, tokens=own.tokens, null=np.array(drawn), **values)
    with np.load(kept) as arrays:
        found = {what: arrays[what] for what in arrays.files}
    about = Read(mass=None, domain=found.pop("domain"), tokens=found.pop("tokens"))
    return found, about, found.pop("null")


def main():
    values, nulls = {}, []
    words = sys.argv[1:]
    for name, run_dir in zip(words[::2], words[1::2], strict=True):
        found, about, null = values_of(name, Path(run_dir))
        values |= found
        nulls.append(
            {"what": name, "draws": len(null), "mean": float(null[:, 0].mean()),
             "highest": float(null[:, 0].max()), "false_share": float((null[:, 1] < 0.05).mean())}
        )  # fmt: skip
    pairs = [("", what) for what in values] + [
        (minus, what) for what, minus in PAIRS if {what, minus} <= values.keys()
    ]
    rows = []
    for minus, what in pairs:
        estimate = averaged(about, values[what] - (values[minus] if minus else 0))
        low, high = estimate.interval()
        rows.append(
            {"what": what, "minus": minus, "n_documents": len(values[what]),
             "value": estimate.value, "low": low, "high": high,
             "p": p_of(estimate, 0 if minus else CHANCE)}
        )  # fmt: skip
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    write_rows("specialise.csv", rows)
    write_rows("specialise_null.csv", nulls)


if __name__ == "__main__":
    main()
