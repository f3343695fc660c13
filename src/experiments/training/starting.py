"""Where a run begins, and what its parts do before the first step, kept for when it goes on."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.data.module import TokenDataModule, check_ranks
from experiments.data.prepare import PreparedData, prepare_data, prepare_sets, training_batches
from experiments.models.freezing import freeze
from experiments.points.building import build_model
from experiments.points.point import BuiltRun, Point
from experiments.records.record import RunRecord
from experiments.system.disk import write_text_atomically
from experiments.system.json_files import read_json
from experiments.training.checkpoints import to_resume_from
from experiments.training.compiled import resolve_compile
from experiments.training.module import LanguageModel
from experiments.training.run_scores import RunScores
from experiments.training.trunk import resolve_trunk

START_NAME = "start.json"
_STREAM_WORKERS = 2  # they tokenize; more where the cores are there, by trainer.n_loader_workers
_FIELDS = {field.name for field in fields(RunRecord)}


def find_checkpoint(point: Point) -> Path | None:
    """Newest whole checkpoint of the run, else the one that a part says it begins at; None: it
    begins with its first step. Raises as RunPart.checkpoint does, and ValueError for that of a
    stream which another number of processes has read.
    """
    found = to_resume_from(point.run_dir, point.look_at)
    if found is None:
        said = (part.checkpoint(point) for part in point.parts)
        found = next((path for path in said if path is not None), None)
    if found is not None and point.config.data.streaming:
        check_ranks(found, point.ranks.world_size)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """A run that is ready for its first step, or its next one. columns: of the record, so far.

    resumed: the checkpoint that it goes on from. scores: of all ranks, the first one's count.
    """

    module: LanguageModel
    data: TokenDataModule
    prepared: PreparedData
    scores: RunScores
    resumed: Path | None
    columns: Mapping[str, Any]


def begin(point: Point, *, scores: bool) -> Begun:
    """Makes data and model ready, and lets the parts do what they do before the first step.

    scores: whether this process scores the model, and keeps what the starts came to in the folder;
    False of other ranks than the first. Raises as checkpoint_of does.
    """
    config, resumed = point.config, find_checkpoint(point)
    prepared = prepare_data(config.data, point.cache)
    scored = config.eval if (scores or point.scored_by_all) and not point.is_trunk else {}
    sets = prepare_sets(config.data, scored, prepared.vocabulary, point.cache)
    with ExitStack() as made_in:
        for part in point.parts:
            made_in.enter_context(part.building())
        model = build_model(point, prepared.vocabulary)
    scorer = RunScores(point=point, model=model, prepared=prepared, sets=sets)
    run = BuiltRun(
        point=point,
        model=model,
        prepared=prepared,
        sets=sets,
        scorer=scorer if scores else None,
        resumed=resumed,
    )
    module = LanguageModel(
        model,
        point.plan,
        config.optim,
        kernel=config.kernel,
        n_micro=point.ranks.n_micro,
        compiled=all(part.compiles for part in point.parts)
        and resolve_compile(config.trainer.compile, point.device.accelerator),
    )
    columns = _start(run, module)
    module.trunk = resolve_trunk(
        config.trainer.trunk,
        point.device.accelerator,
        model,
        module.parts,
        compiled=module.is_compiled,
        recompute=config.trainer.recompute,
    )
    for part in point.parts:
        columns = _merged(columns, part.columns(point))
    return Begun(
        module=module,
        data=_data_module(run),
        prepared=prepared,
        scores=scorer,
        resumed=resumed,
        columns=columns,
    )


def _start(run: BuiltRun, module: LanguageModel) -> dict[str, Any]:
    """Lets the parts make the model what it is before its first step, unless the run goes on from a
    checkpoint that has it; freezes what isn't trained, and hands the module what they do in steps.
    Returns the columns of the starts.
    """
    known, parts = run.point.run_dir / START_NAME, run.point.parts
    goes_on = run.resumed is not None and known.exists()
    columns: dict[str, Any] = read_json(known) if goes_on else {}
    if not goes_on:
        for part in parts:
            columns = _merged(columns, part.start(run))
    freeze(run.model)
    for part in parts:
        training = part.training(run, columns)
        if training is not None:
            module.attach(training)
    if columns and not goes_on and run.scorer is not None:
        write_text_atomically(known, json.dumps(columns, indent=1) + "\n")
    return columns


def _data_module(run: BuiltRun) -> TokenDataModule:
    config = run.point.config
    n_workers = config.trainer.n_loader_workers
    if n_workers is None:
        n_workers = _STREAM_WORKERS if config.data.streaming else 0
    of_parts = [part.batches() for part in run.point.parts]
    make_batches = partial(
        training_batches,
        config.data,
        run.prepared,
        run.point.cache,
        batch_size=config.ladder.batch_size,
        seed=config.seed,
        stage_steps=run.point.plan.stage_steps,
        **{name: value for given in of_parts for name, value in given.items()},
    )
    return TokenDataModule(make_batches, n_workers, run.point.ranks.n_micro, config.data.skip_steps)


def with_columns(record: RunRecord, columns: Mapping[str, Any]) -> RunRecord:
    """Record with columns of parts: those that it has no field for stand under `parts`."""
    own = {name: value for name, value in columns.items() if name in _FIELDS}
    others = {name: value for name, value in columns.items() if name not in _FIELDS}
    return replace(record, **own, parts=_merged(record.parts, others))


def _merged(columns: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Both; of a column that both have as a mapping, the keys of both."""
    merged = dict(columns)
    for name, value in more.items():
        own = merged.get(name)
        both = isinstance(own, dict) and isinstance(value, dict)
        merged[name] = {**own, **value} if both and own is not None else value
    return merged
