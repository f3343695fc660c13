"""A finished run read back: its record, its point, its tokenizer and its trained model.

For the commands that score, continue texts with, or export what a run has trained.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from experiments.config.composed import composed
from experiments.config.words import PLACES, SCORING, check_keys
from experiments.data.corpus import find_name
from experiments.data.folders import vocabulary_folder
from experiments.data.prepare import base_corpus
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary
from experiments.kernels.ops import Execution
from experiments.models.transformer import Transformer
from experiments.points.planning import make_point
from experiments.points.point import Point
from experiments.records.files import DamagedError
from experiments.records.finished import TRAIN_AGAIN, finished_record
from experiments.records.record import RunRecord
from experiments.system.environment import exact_products
from experiments.system.seals import find_damage
from experiments.system.table_files import load_whole
from experiments.training.checkpoints import LAST
from experiments.training.starting import build_model


class Change(Protocol):
    """A change of a finished run's model before it is used, as inspection/editing has them."""

    @property
    def label(self) -> str:
        """Mark of results with it."""
        ...

    def change(self, model: Transformer) -> None:
        """Raises ValueError for a model that it isn't of."""


def run_config(
    record: RunRecord, overrides: Sequence[str], nodes: Sequence[str] = PLACES
) -> dict[str, Any]:
    """Run's own config, with the nodes that the command line may change."""
    check_keys(overrides, (), nodes)
    now = composed(overrides)
    # "sweep": an old record may have a name that is no longer allowed; it is not used here
    own = {**record.config, "sweep": "scored", "cluster": None}  # on this machine
    return {**own, **{node: now[node] for node in nodes}}


def scored_point(run_dir: Path, record: RunRecord, overrides: Sequence[str]) -> Point:
    """Run as a point again, to score texts; overrides: of SCORING.

    Raises ValueError if it would be another run today.
    """
    point = make_point(run_config(record, overrides, SCORING))
    if point.run_id != record.run_id:
        raise ValueError(
            f"the data that {run_dir} names is not what it was trained on (its identity is "
            f"{point.run_id} now); restore the files, or train again"
        )
    return point


def run_vocabulary(run_dir: Path, record: RunRecord, point: Point) -> Vocabulary:
    """Tokenizer of the run: of the cache, or of the one that it was trained with. Where both
    have lost it, it is made again, and a line on stderr says so first.

    Raises ValueError if it is not the one that the run was trained with.
    """
    data = point.config.data
    about = data.tokenizer, base_corpus(data.corpus)
    caches = (point.cache, _own_cache(record))
    cache = next((c for c in caches if vocabulary_folder(*about, c).exists()), None)
    if cache is None:
        cache = point.cache
        print(
            f"no cache has the tokenizer of {run_dir}: it is made again in {cache}, from the text "
            f"of {find_name(about[1])}; paths.cache=... names a cache that has it",
            file=sys.stderr,
            flush=True,
        )
    vocabulary = prepare_vocabulary(*about, cache)
    if record.tokenizer_sha256 not in (None, vocabulary.sha256):
        raise ValueError(
            f"the tokenizer that {run_dir} names is not the one that it was trained with; restore "
            f"its text, or give paths.cache=... where {vocabulary.folder.name} is as it was"
        )
    return vocabulary


def _own_cache(record: RunRecord) -> Path:
    """Where the run's text and tokenizer were when it was trained."""
    paths = record.config.get("paths")
    own = paths.get("cache") if isinstance(paths, dict) else None
    return Path(own if isinstance(own, str) else "")


def trained_model(run_dir: Path, point: Point, vocabulary: Vocabulary) -> Transformer:
    """Model with the weights of the run's end, in evaluation mode, on the point's device,
    whose products of float32 are exact from here on, as in the run's own evaluation.

    Raises DamagedError for a checkpoint that is not whole.
    """
    exact_products()
    model = build_model(point, vocabulary)
    model.set_execution(Execution(kernel=point.config.kernel))
    load_weights(model, run_dir / LAST, point.plan.n_steps)
    return model.to(torch.device(point.device.accelerator)).eval()


def read_finished(
    run_dir: Path, overrides: Sequence[str] = ()
) -> tuple[RunRecord, Vocabulary, Transformer]:
    """All three of a finished run; overrides: of PLACES. Raises ValueError, one line."""
    record = finished_record(run_dir)
    point = make_point(run_config(record, overrides))
    vocabulary = run_vocabulary(run_dir, record, point)
    return record, vocabulary, trained_model(run_dir, point, vocabulary)


def load_weights(model: Transformer, checkpoint: Path, n_steps: int) -> None:
    """Weights of a checkpoint that a run wrote at its end, after n_steps.

    Raises DamagedError if it is not whole or is another: no other stands for the run's end.
    """
    why = find_damage(checkpoint)
    if why is not None:
        raise DamagedError(checkpoint, why, TRAIN_AGAIN)
    prefix = "model."
    try:
        loaded = load_whole(checkpoint)
        state = loaded["state_dict"].items()
        model.load_state_dict({k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)})
    except Exception as error:  # torch has many, of several lines
        why = f"it does not hold this run's weights: {str(error).splitlines()[0]}"
        raise DamagedError(checkpoint, why, TRAIN_AGAIN) from error
    if loaded["global_step"] != n_steps:
        why = f"it is of step {loaded['global_step']}, and the run ended at {n_steps}"
        raise DamagedError(checkpoint, why, TRAIN_AGAIN)
