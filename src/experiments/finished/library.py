"""A library of adapters beside a finished run's model: for the commands that score or generate."""

from pathlib import Path

from torch import nn

from experiments.adapters.library import LoRALibrary
from experiments.adapters.storage import INDEX, load_library
from experiments.config.words import LIBRARY
from experiments.init.finished_run import FinishedRun
from experiments.init.reading import file_sha256
from experiments.models.lora import LoRALinear
from experiments.models.transformer import Transformer
from experiments.records.record import RunRecord


def library_label(folder: Path) -> str:
    """Mark of results with a library: its folder's name and what is in it."""
    return f"@{LIBRARY}={folder.resolve().name}-{file_sha256(folder / INDEX)[:8]}"


def attach_library(
    folder: Path, run_dir: Path, record: RunRecord, model: Transformer
) -> LoRALibrary:
    """Library in a folder, beside a run's model. A run of init.train=lora stands for what it
    began with: its own adapters are taken off.

    Raises ValueError for a library of adapters of other weights.
    """
    library = load_library(folder)
    found = base_digest(run_dir, record)
    if library.base is not None and library.base != found:
        raise ValueError(
            f"{folder} holds adapters of other weights ({library.base[:8]}) than {run_dir} "
            f"({found[:8]}); name the run that they were trained from"
        )
    take_off(model)
    library.attach(model)
    return library


def base_digest(run_dir: Path, record: RunRecord) -> str:
    """Sha256 of a run's weights; with adapters, of those that it began with."""
    if record.init.get("train") == "lora":
        return str(record.init["sha256"])
    return FinishedRun(path=str(run_dir)).digest(run_dir)


def take_off(model: nn.Module) -> None:
    """Removes a model's own low-rank adapters, whose base was not trained."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                plain = nn.Linear(child.in_features, child.out_features, bias=False, device="meta")
                plain.weight = child.weight
                setattr(parent, name, plain.train(child.training))
