"""The material of docs/inspect_study.md: domains, and a run's model with its texts."""

from pathlib import Path

from experiments.finished.model import trained_model
from experiments.inspection.interface import inspected_layers
from experiments.inspection.reading import Pass
from experiments.inspection.statistics import Bounds
from experiments.inspection.texts import read_texts
from experiments.records.record import read_record

DOMAINS = (
    "wiki_leads", "gcide", "shakespeare", "bible_kjv", "tatoeba", "attack", "licences", "api_aws",
)  # fmt: skip
# one document in five of each domain that the runs were trained on, a tenth of which they have read
EVERY = 5
BLOCK = "blocks.1.ffn"  # the middle one of four, which has the layer under study


def words(splits, n_tokens):
    """Overrides of experiments.inspect and experiments.ablate, for texts=packages."""
    return [
        f"eval.packages.splits=[{','.join(splits)}]",
        f"eval.packages.corpus.validation_every={EVERY}",
        f"evaluation.max_tokens={n_tokens}",
    ]


def domains_of_packages(n_tokens):
    return words([f"validation/{name}" for name in DOMAINS], n_tokens)


def opened(run_dir, overrides, layers=None, texts=("packages",)):
    """The record, the model, its layers by name, and a pass over the texts."""
    run_dir = Path(run_dir)
    record = read_record(run_dir / "record.json")
    chosen, vocabulary, point = read_texts(run_dir, record, texts, overrides)
    model = trained_model(run_dir, point, vocabulary)
    found = {layer.name: layer for layer in inspected_layers(model, layers)}
    reading = Pass(
        texts=chosen,
        seq_len=point.config.data.seq_len,
        batch_size=point.config.evaluation.batch_size or point.config.ladder.batch_size,
        vocab_size=vocabulary.n_entries,
        end_of_text=vocabulary.end_of_text,
        bounds=Bounds(),
        identity={},
    )
    return record, model, found, reading
