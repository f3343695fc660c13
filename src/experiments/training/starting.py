"""A run's start from weights, before its first step; what it came to is kept in the folder."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.data.cache import made_once
from experiments.data.corpus import digest
from experiments.data.packed import PackedText
from experiments.data.prepare import PreparedData, training_batches
from experiments.init.freeze import freeze
from experiments.init.place import bases
from experiments.init.start import start
from experiments.models.transformer import Transformer, chosen_blocks
from experiments.point import Point
from experiments.system.claims import log_event
from experiments.system.disk import write_text_atomically
from experiments.training.checkpoints import to_resume_from

Scores = dict[str, dict[str, Any]]
START_NAME = "start.json"
_DISTILLATION_SEED = 1  # added to the run's: its batches are not the first of the training


def begin(
    point: Point,
    model: Transformer,
    prepared: PreparedData,
    sets: Mapping[str, PackedText],
    evaluations: Callable[[], Scores] | None,
) -> dict[str, Any]:
    """Puts the weights into the model, unless the run goes on from a checkpoint; freezes the rest.

    evaluations() scores the model on `sets` and the validation split as it starts (None: another
    rank does); where that is the weights' own function, once for all runs of the same weights and
    sets. Returns the columns init and before of the record; none for a run that starts from no
    weights. Raises ValueError for weights that are no longer those that the config was completed
    with, RuntimeError for a layer beside that changes the function.
    """
    init = point.config.init
    if init is None:
        return {}
    known = point.run_dir / START_NAME
    if to_resume_from(point.run_dir) is not None and known.exists():
        freeze(model)
        columns: dict[str, Any] = json.loads(known.read_text())
        return columns
    found = init.weights.digest(point.cache)
    if found != init.sha256:
        raise ValueError(
            f"the weights of init have sha256 {found}, and this run starts from {init.sha256}; "
            "restore the file, or start a new run with these"
        )
    log_event(point.run_dir, "starting from weights", how=init.how)
    started = start(
        model,
        init,
        init.weights.state(point.cache),
        bases(point.config),
        chosen_blocks(point.config.trunk.ffn_blocks, point.config.size),
        _tokens(point, prepared),
        seed=point.config.seed,
    )
    if started.exact is False:
        raise RuntimeError(
            f"init.how={init.how} changed the function of the weights, which it must not: the "
            "layer beside does not start at zero; set another model"
        )
    columns = {
        "init": {
            "weights": type(init.weights).__name__,
            "sha256": init.sha256,
            "how": init.how,
            "train": init.train,
            "exact": started.exact,
            "flops": started.flops,
            "distilled": {str(i): dataclasses.asdict(d) for i, d in started.distilled.items()},
        },
        "before": {} if evaluations is None else _before(point, prepared, sets, evaluations),
    }
    if evaluations is not None:
        write_text_atomically(known, json.dumps(columns, indent=1) + "\n")
    return columns


def _before(
    point: Point,
    prepared: PreparedData,
    sets: Mapping[str, PackedText],
    evaluations: Callable[[], Scores],
) -> Scores:
    """The scores at the start. keep, beside and copies don't change the function (tests/init), so
    the scores depend on the weights, the sets and the rule alone, and are kept in the cache.
    """
    config, init = point.config, point.config.init
    assert init is not None
    if init.how not in ("keep", "beside", "copies"):
        return evaluations()
    parts = {
        "weights": init.sha256,
        "validation": prepared.validation.digest,
        "n_eval_tokens": config.data.n_eval_tokens,
        "seq_len": config.data.seq_len,
        "mask_documents": config.data.mask_documents,
        "batch_size": config.ladder.batch_size,
        "sets": {name: tokens.digest for name, tokens in sets.items()},
        "rule": dataclasses.asdict(config.evaluation),
    }

    def score(folder: Path) -> None:
        (folder / "scores.json").write_text(json.dumps(evaluations()))

    folder = made_once(point.cache / "starts" / digest(parts), score)
    scores: Scores = json.loads((folder / "scores.json").read_text())
    return scores


def _tokens(point: Point, prepared: PreparedData) -> Iterator[Tensor]:
    """Batches of the training text, in another order than the training's."""
    config = point.config
    batches = training_batches(
        config.data,
        prepared,
        point.cache,
        batch_size=config.ladder.batch_size,
        seed=config.seed + _DISTILLATION_SEED,
    )
    for windows in batches:
        yield torch.from_numpy(windows.tokens[:, :-1].astype("int64"))
