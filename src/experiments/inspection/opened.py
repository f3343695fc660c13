"""A finished run that is opened to be inspected: its texts, its model and the layers of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.vocabulary import Vocabulary
from experiments.finished.model import Change, trained_model
from experiments.inspection.classes import token_classes
from experiments.inspection.interface import Inspected, final_norm, inspected_layers
from experiments.inspection.reading import Pass
from experiments.inspection.results import FORMAT
from experiments.inspection.statistics import Bounds
from experiments.inspection.texts import Text, read_texts
from experiments.models.digest import tensors_sha256
from experiments.models.transformer import Transformer
from experiments.records.record import RunRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """The model is in evaluation mode, with its patch in it. identity: of what is read of it, in
    plain values.
    """

    record: RunRecord
    vocabulary: Vocabulary
    model: Transformer
    layers: Sequence[Inspected]
    texts: Sequence[Text]
    identity: dict[str, Any]
    reading: Pass


def opened(
    run_dir: Path,
    record: RunRecord,
    texts: Sequence[str],
    overrides: Sequence[str],
    *,
    layers: Sequence[str] | None,
    change: Change | None,
) -> Opened:
    """Raises ValueError as read_texts, inspected_layers and the change do."""
    chosen, vocabulary, point = read_texts(run_dir, record, texts, overrides)
    model = trained_model(run_dir, point, vocabulary)
    found = inspected_layers(model, layers)
    final_norm(model)  # before the minutes that all of it takes
    weights = tensors_sha256(model.state_dict())
    if change is not None:
        change.change(model)
    batch_size = point.config.evaluation.batch_size or point.config.ladder.batch_size
    identity: dict[str, Any] = {
        "format": FORMAT,
        "run_id": record.run_id,
        "weights": weights,
        "patch": "" if change is None else change.label,
        "layers_read": [layer.name for layer in found],
        "texts": [{"name": t.name, "digest": t.digest, "max_tokens": t.max_tokens} for t in chosen],
        "batch_size": batch_size,
    }
    reading = Pass(
        texts=chosen,
        seq_len=point.config.data.seq_len,
        batch_size=batch_size,
        classes=token_classes(vocabulary.tokenizer(), vocabulary.n_entries),
        end_of_text=vocabulary.end_of_text,
        bounds=Bounds(),
        identity=identity,
    )
    return Opened(
        record=record,
        vocabulary=vocabulary,
        model=model,
        layers=found,
        texts=chosen,
        identity=identity,
        reading=reading,
    )
