"""Do experts specialise by domain? `python -m tests.study.inside.specialise NAME RUN ...`.

Writes results/study/inspect/specialise.csv: how often one reading names its domain (naming.py), by
the layer of the middle block of runs, peer, moe_fine or dense; of another seed, "peer, seed 2".
Beside each, of the same documents:

- untrained: the run's layer and trunk at their first weights;
- layer untrained: the layer alone, in the trained trunk. Batch norm of queries, in both, has the
  statistics of the texts, as training would have left them;
- by tokens alone: each token reads what it does on average (masses.py).

And of PEER the experts of a first sub-key as one, which are as many as moe_fine's experts; and the
token ids themselves. Differences are paired by document, and corrected together (Holm 1979).
specialise_null.csv: the same where documents' domains are drawn again, 200 times: the mean, the
highest, and the share of draws whose interval of 95 % leaves out chance.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from experiments.finished.model import read_run
from experiments.inspection.interface import inspected_layers
from experiments.models.batch_norm import BatchNorm
from experiments.points.building import build_model
from tests.study.inside.files import write_named, write_rows
from tests.study.inside.masses import by_first_key, by_tokens_alone, read_masses
from tests.study.inside.naming import Read, averaged, named, p_of, permuted
from tests.study.inside.texts import BLOCK, DOMAINS, domains_of_packages, opened

CHANCE = 1 / len(DOMAINS)
TOKENS = 16384  # of each domain
DRAWS = 200
SEED = ", seed "


def pairs(names):
    """(what, minus what) of the names of one seed."""
    peer, moe, dense = (
        next((name for name in names if name.partition(SEED)[0] == layer), layer)
        for layer in ("peer", "moe_fine", "dense")
    )
    return [
        (peer, dense),
        (moe, dense),
        (peer, moe),
        (f"{peer} by first sub-key", dense),
        (f"{peer} by first sub-key", moe),
        *((one, f"{one}, untrained") for one in (peer, moe, dense)),
        *((one, f"{one}, layer untrained") for one in (peer, moe, dense)),
        *((one, f"{one}, by tokens alone") for one in (peer, moe, dense)),
        (peer, "token ids"),
        (peer, f"{peer}, dense layer before"),
    ]


def untrained(run_dir, record):
    """Run's model before its first step."""
    run = read_run(run_dir, record)
    torch.manual_seed(run.config.seed)
    return build_model(run.draft, run.vocabulary).eval()


def settle(model, layer, reading):
    """Gives the layer's batch norm the statistics of the texts."""
    norms = [module for module in layer.module.modules() if isinstance(module, BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    if norms:
        with torch.no_grad():
            for _, ids, *_ in reading.batches():
                model(ids)
    model.eval()


def values_of(name, run_dir):
    """(documents,) by what: how often a reading names the document's domain; the documents; and
    what is found where labels say nothing. Kept beside the run.
    """
    kept = run_dir / "named.npz"
    if not kept.exists():
        run = opened(run_dir, domains_of_packages(TOKENS))
        read, by_token = read_masses(run.model, run.layers, run.reading)
        own, tokens = read[BLOCK], read["token"]
        reads = {"": own}
        alone = named(own, by_tokens_alone(tokens, by_token[BLOCK]))
        layer = next(layer.layer for layer in run.layers if layer.name == BLOCK)
        if layer.grid() is not None:
            reads[" by first sub-key"] = by_first_key(own, layer.grid()[1])
            reads[", dense layer before"] = read["blocks.0.ffn"]
            reads["token ids"] = tokens
        model = untrained(run_dir, run.record)
        (first,) = inspected_layers(model, [BLOCK])
        settle(model, first, run.reading)
        reads[", untrained"] = read_masses(model, [first], run.reading)[0][BLOCK]
        (mine,) = inspected_layers(run.model, [BLOCK])
        mine.module.load_state_dict(first.module.state_dict())
        settle(run.model, mine, run.reading)
        reads[", layer untrained"] = read_masses(run.model, [mine], run.reading)[0][BLOCK]
        values = {what: named(one) for what, one in reads.items()}
        values[", by tokens alone"] = alone
        rng, drawn = np.random.default_rng(0), []
        for _ in range(DRAWS):
            one = permuted(own, rng)
            estimate = averaged(one, named(one))
            drawn.append((estimate.value, p_of(estimate, CHANCE)))
        about = {"domain": own.domain, "tokens": own.tokens, "null": np.array(drawn)}
        np.savez(kept, **about, **{f"of{what}": one for what, one in values.items()})
    with np.load(kept) as arrays:
        found = {what: arrays[what] for what in arrays.files}
    about = Read(mass=None, domain=found.pop("domain"), tokens=found.pop("tokens"))
    null = found.pop("null")
    ends = {what.removeprefix("of"): one for what, one in found.items()}
    named_so = {end if end == "token ids" else f"{name}{end}": one for end, one in ends.items()}
    return named_so, about, null


def main():
    values, nulls, seeds = {}, [], {}
    words = sys.argv[1:]
    for name, run_dir in zip(words[::2], words[1::2], strict=True):
        found, about, null = values_of(name, Path(run_dir))
        values |= {what: one for what, one in found.items() if what not in values}
        seeds.setdefault(name.partition(SEED)[2], []).append(name)
        nulls.append(
            {"what": name, "draws": len(null), "mean": float(null[:, 0].mean()),
             "highest": float(null[:, 0].max()), "false_share": float((null[:, 1] < 0.05).mean())}
        )  # fmt: skip
    wanted = [pair for names in seeds.values() for pair in pairs(names)]
    write_named("specialise.csv", values, about, wanted, CHANCE)
    write_rows("specialise_null.csv", nulls)


if __name__ == "__main__":
    main()
