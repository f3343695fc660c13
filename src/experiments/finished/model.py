"""A finished run read back: its record, its config, its tokenizer and its trained model.

For the commands that score, continue texts with, or export what a run has trained.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from experiments.config.composed import composed
from experiments.config.schema import RunConfig
from experiments.config.words import PLACES, SCORING, check_keys
from experiments.data.corpus import find_name
from experiments.data.folders import vocabulary_folder
from experiments.data.prepare import base_corpus
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary
from experiments.kernels.select import check_kernel
from experiments.models.transformer import Transformer
from experiments.points.building import build_model
from experiments.points.identity import compute_id
from experiments.points.planning import read_draft
from experiments.points.point import Draft
from experiments.records.files import CHECKPOINT_NAME, DamagedError
from experiments.records.finished import TRAIN_AGAIN, finished_record
from experiments.records.record import RunRecord
from experiments.system.environment import exact_products
from experiments.system.seals import find_damage
from experiments.system.table_files import load_whole


class Change(Protocol):
    """A change of a finished run's model before it is used, as inspection/editing has them."""

    @property
    def label(self) -> str:
        """Mark of results with it."""
        ...

    def change(self, model: Transformer) -> None:
        """Raises ValueError for a model that it isn't of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A finished run, with what the command line may change. draft: its config, and the shape of
    its model. Nothing of it is planned again: its record says what it came to.
    """

    run_dir: Path
    record: RunRecord
    draft: Draft
    vocabulary: Vocabulary

    @property
    def config(self) -> RunConfig:
        """Config of the run, but for what the command line has changed."""
        return self.draft.config

    @property
    def cache(self) -> Path:
        """Folder of the data cache."""
        return Path(self.config.paths.cache).expanduser()

    @property
    def batch_size(self) -> int:
        """Sequences that are scored at once."""
        return self.config.evaluation.batch_size or self.config.ladder.batch_size

    @property
    def device(self) -> torch.device:
        """Where its model is."""
        return torch.device(self.draft.device.accelerator)


def read_run(
    run_dir: Path,
    record: RunRecord,
    overrides: Sequence[str] = (),
    nodes: Sequence[str] = PLACES,
) -> Finished:
    """Read the run of a folder and its record. overrides: of the nodes. With those of SCORING, its
    data must be what it was trained on.

    Raises ValueError, one line, if it would be another run today.
    """
    check_keys(overrides, (), nodes)
    now = composed(overrides)
    # "sweep": an old record may have a name that is no longer allowed; it is not used here
    own = {**record.config, "sweep": "scored", "cluster": None}  # on this machine
    draft = read_draft({**own, **{node: now[node] for node in nodes}})
    check_kernel(draft.config.kernel, draft.device.accelerator)
    if nodes == SCORING and (found := compute_id(draft.raw, draft)) != record.run_id:
        raise ValueError(
            f"the data that {run_dir} names is not what it was trained on (its identity is "
            f"{found} now); restore the files, or train again"
        )
    vocabulary = _vocabulary(run_dir, record, draft)
    return Finished(run_dir=run_dir, record=record, draft=draft, vocabulary=vocabulary)


def _vocabulary(run_dir: Path, record: RunRecord, draft: Draft) -> Vocabulary:
    """Tokenizer of the run: of the cache, or of the one that it was trained with. Where both
    have lost it, it is made again, and a line on stderr says so first.

    Raises ValueError if it is not the one that the run was trained with.
    """
    about = draft.config.data.tokenizer, base_corpus(draft.config.data.corpus)
    paths = record.config.get("paths")
    own = paths.get("cache") if isinstance(paths, dict) else None
    now = Path(draft.config.paths.cache).expanduser()
    caches = (now, Path(own if isinstance(own, str) else ""))
    cache = next((c for c in caches if vocabulary_folder(*about, c).exists()), None)
    if cache is None:
        cache = now
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


def trained_model(run: Finished) -> Transformer:
    """Build the model with the weights of the run's end, in evaluation mode on the run's device,
    whose products of float32 are exact from here on, as in the run's own evaluation.

    Raises DamagedError for a checkpoint that is not whole.
    """
    exact_products()
    model = build_model(run.draft, run.vocabulary)
    load_weights(model, run.run_dir / CHECKPOINT_NAME, run.record.n_steps)
    return model.to(run.device).eval()


def read_finished(
    run_dir: Path, overrides: Sequence[str] = ()
) -> tuple[RunRecord, Vocabulary, Transformer]:
    """All three of a finished run; overrides: of PLACES. Raises ValueError, one line."""
    run = read_run(run_dir, finished_record(run_dir), overrides)
    return run.record, run.vocabulary, trained_model(run)


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
