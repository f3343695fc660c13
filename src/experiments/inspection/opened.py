"""A finished run that is opened to be inspected: its texts, its model and the layers of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from experiments.config.words import SCORING
from experiments.finished.model import Change, Finished, read_run, trained_model
from experiments.inspection.classes import token_classes
from experiments.inspection.interface import Inspected, final_norm, inspected_layers
from experiments.inspection.reading import Pass
from experiments.inspection.results import FORMAT
from experiments.inspection.statistics import Bounds
from experiments.inspection.texts import Text, read_texts, with_sets
from experiments.models.digest import tensors_sha256
from experiments.models.transformer import Transformer
from experiments.records.record import RunRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A run, its texts and its layers. The model is in evaluation mode, with its patch in it."""

    run: Finished
    tokenizer: Tokenizer
    model: Transformer
    layers: Sequence[Inspected]
    reading: Pass

    @property
    def record(self) -> RunRecord:
        """Record of the run."""
        return self.run.record

    @property
    def texts(self) -> Sequence[Text]:
        """Those that are read."""
        return self.reading.texts


def opened(
    run_dir: Path,
    record: RunRecord,
    texts: Sequence[str],
    overrides: Sequence[str],
    *,
    layers: Sequence[str] | None,
    change: Change | None,
) -> Opened:
    """Raises ValueError as with_sets, read_run, read_texts, inspected_layers and the change do."""
    run = read_run(run_dir, record, with_sets(texts, overrides), SCORING)
    chosen = read_texts(run, texts)
    tokenizer, model = run.vocabulary.tokenizer(), trained_model(run)
    found = inspected_layers(model, layers)
    final_norm(model)  # before the minutes that all of it takes
    identity: dict[str, Any] = {
        "format": FORMAT,
        "run_id": record.run_id,
        "weights": tensors_sha256(model.state_dict()),
        "patch": "" if change is None else change.label,
        "layers_read": [layer.name for layer in found],
        "texts": [text.identity for text in chosen],
        "batch_size": run.batch_size,
    }
    if change is not None:
        change.change(model)
    reading = Pass(
        texts=chosen,
        seq_len=run.config.data.seq_len,
        batch_size=run.batch_size,
        classes=token_classes(tokenizer, run.vocabulary.n_entries),
        end_of_text=run.vocabulary.end_of_text,
        bounds=Bounds(),
        identity=identity,
    )
    return Opened(run=run, tokenizer=tokenizer, model=model, layers=found, reading=reading)
