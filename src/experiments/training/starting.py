"""A run's start from weights, before its first step; what it came to is kept in the folder."""

import copy
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
from experiments.init.finished_run import FinishedRun
from experiments.init.freeze import freeze
from experiments.init.place import bases, grows
from experiments.init.start import Started, start
from experiments.kernels.ops import Execution
from experiments.models.ffn._product_keys import ProductKeyConfig, ProductKeyFFN
from experiments.models.transformer import Block, Transformer, chosen_blocks
from experiments.optim.moments import grown_moments
from experiments.point import Point
from experiments.system.claims import log_event
from experiments.system.disk import write_text_atomically
from experiments.training.keeping import Keeping
from experiments.training.late_keys import LateKeys
from experiments.training.module import LanguageModel

Scores = dict[str, dict[str, Any]]
START_NAME = "start.json"
_DISTILLATION_SEED = 1  # added to the run's: its batches are not the first of the training


def begin(
    point: Point,
    module: LanguageModel,
    prepared: PreparedData,
    sets: Mapping[str, PackedText],
    evaluations: Callable[[], Scores] | None,
    resumed: Path | None,
) -> dict[str, Any]:
    """Puts the weights into the model, unless the run goes on from a checkpoint; freezes the rest.
    A layer that has grown gets its parent's moments too, and its new keys are let in later.

    resumed: the checkpoint that the run goes on from (checkpoints.to_resume_from).
    evaluations() scores the model on `sets` and the validation split as it starts (None: another
    rank does); where that is the weights' own function, once for all runs of the same weights and
    sets. Returns the columns init and before of the record; none for a run that starts from no
    weights. Raises ValueError for weights that are no longer those that the config was completed
    with, RuntimeError for a layer beside that changes the function.
    """
    init, model = point.config.init, module.model
    known = point.run_dir / START_NAME
    resumes = resumed is not None
    if init is None:
        _keep(point, module, prepared, resumes)
        return {}
    if resumes and known.exists():
        freeze(model)
        columns: dict[str, Any] = json.loads(known.read_text())
        _keep_late(point, module, columns["init"].get("late", {}))
        _keep(point, module, prepared, resumes)
        return columns
    log_event(point.run_dir, "starting from weights", how=init.how)
    started = _started(point, model, prepared)
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
            "late": {str(i): depth for i, depth in started.late.items()},
            **({"parent": init.weights.parent()} if isinstance(init.weights, FinishedRun) else {}),
        },
        "before": {} if evaluations is None else _before(point, prepared, sets, evaluations),
    }
    if grows(point.config):
        _grow_training(point, module, columns["init"])
    _keep(point, module, prepared, resumes)
    if evaluations is not None:
        write_text_atomically(known, json.dumps(columns, indent=1) + "\n")
    return columns


def _started(point: Point, model: Transformer, prepared: PreparedData) -> Started:
    config, init = point.config, point.config.init
    assert init is not None
    found = init.weights.digest(point.cache)
    if found != init.sha256:
        raise ValueError(
            f"the weights of init have sha256 {found}, and this run starts from {init.sha256}; "
            "restore the file, or start a new run with these"
        )
    return start(
        model,
        init,
        init.weights.state(point.cache),
        bases(config),
        chosen_blocks(config.trunk.ffn_blocks, config.size),
        _tokens(point, prepared),
        seed=config.seed,
    )


def _keep(point: Point, module: LanguageModel, prepared: PreparedData, resumes: bool) -> None:
    """What config.continual asks for. A run that goes on has its counts in the checkpoint, and what
    the model was at the start is made again.
    """
    config, continual = point.config, point.config.continual
    if continual is None:
        return
    reference = None
    if continual.distil or continual.l2:
        reference = copy.deepcopy(module.model)
        reference.set_execution(Execution(kernel=config.kernel))
        if resumes:
            _started(point, reference, prepared)
    module.keeping = Keeping(continual, module.model, reference)
    if module.keeping.rows is not None and not resumes:
        tokens = _tokens(point, prepared)
        n = continual.background_steps
        module.keeping.rows.count_background(module.model, [next(tokens) for _ in range(n)])


def _grow_training(point: Point, module: LanguageModel, column: dict[str, Any]) -> None:
    """The parent's moments, where it had the same parameters, and late keys."""
    config, init = point.config, point.config.init
    assert init is not None
    _keep_late(point, module, column["late"])
    if isinstance(init.weights, FinishedRun):
        module.moments = grown_moments(
            init.weights.optimizer_state(),
            module.model,
            bases(config),
            chosen_blocks(config.trunk.ffn_blocks, config.size),
            config.optim,
            init.how,
        )
    column["moments"] = bool(module.moments)


def _keep_late(point: Point, module: LanguageModel, depths: Mapping[str, float]) -> None:
    """Lets new keys in over the share init.anneal of the steps."""
    config, layers = point.config, {}
    for i, depth in depths.items():
        block, base = module.model.blocks[int(i)], bases(config)[int(i)]
        assert isinstance(block, Block)
        assert isinstance(block.ffn, ProductKeyFFN)
        assert isinstance(base, ProductKeyConfig)
        layers[block.ffn] = (base.key_sets[0], depth)
    assert config.init is not None
    if layers:
        n_steps = max(1, round(config.init.anneal * point.plan.n_steps))
        module.late_keys = LateKeys(layers, n_steps)


def _before(
    point: Point,
    prepared: PreparedData,
    sets: Mapping[str, PackedText],
    evaluations: Callable[[], Scores],
) -> Scores:
    """The scores at the start. Most ways don't change the function (tests/init), so the scores
    depend on the weights, the sets and the rule alone, and are kept in the cache.
    """
    config, init = point.config, point.config.init
    assert init is not None
    exact = init.how in ("keep", "beside", "bias") or (init.how == "copies" and not grows(config))
    if not exact:
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
    """Batches of the training text, in another order than training's; of a stream, its base's."""
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
