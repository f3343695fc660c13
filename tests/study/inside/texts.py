"""Material of docs/inspect_study.md: domains, and a run's model with its texts."""

import numpy as np
from tqdm import tqdm

from experiments.inspection import opened as inspection
from experiments.inspection.ablation.of_texts import add_losses, make_units
from experiments.records.files import read_record

DOMAINS = (
    "wiki_leads", "gcide", "shakespeare", "bible_kjv", "tatoeba", "attack", "licences", "api_aws",
)  # fmt: skip
# one document in five of each domain that the runs were trained on, a tenth of which they have read
EVERY = 5
BLOCK = "blocks.1.ffn"  # the middle one of four, which has the layer under study


def words(splits, n_tokens):
    """Overrides of experiments.inspect, for texts=packages."""
    return [
        f"eval.packages.splits=[{','.join(splits)}]",
        f"eval.packages.corpus.validation_every={EVERY}",
        f"evaluation.max_tokens={n_tokens}",
    ]


def domains_of_packages(n_tokens):
    return words([f"validation/{name}" for name in DOMAINS], n_tokens)


def opened(run_dir, overrides, layers=None, texts=("packages",)):
    """Run's record and model, its layers, and a pass over the texts (inspection/opened.py)."""
    record = read_record(run_dir / "record.json")
    return inspection.opened(run_dir, record, texts, overrides, layers=layers, change=None)


def units(run, *, halved=False):
    """Of each text its documents (inspect ablate)."""
    reading = run.reading
    return make_units(
        run.texts, reading.seq_len, reading.batch_size, reading.end_of_text, halved=halved
    )


def nats(model, those):
    """Of each text the nats (documents,) of its documents, and how many targets they have."""
    found = []
    for one in those:
        total = np.zeros(one.n)
        size = add_losses(model, one, total, tqdm(disable=True))
        found.append((total, size))
    return found
