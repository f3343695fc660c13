"""A finished run's scores on texts and tasks: those that its record lacks are made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.words import SCORING
from experiments.data.prepare import prepare_sets
from experiments.finished.library import attach_library, library_label
from experiments.finished.model import Change, Finished, read_run, trained_model
from experiments.records.files import RECORD_NAME, read_record, write_record
from experiments.records.finished import finished_record
from experiments.records.record import RunRecord
from experiments.system.disk import check_writable, reached
from experiments.system.environment import without_denormals
from experiments.tasks.choice import Chosen
from experiments.tasks.facts import facts_tasks
from experiments.tasks.harness import load_tasks, score_tasks
from experiments.tasks.harness_names import check_extra
from experiments.tasks.local import KEY, encode_task, is_scored, score_task
from experiments.tasks.scoring import Encoder, Scorer
from experiments.tasks.table import tasks_table
from experiments.training.evaluation import results_table, rule_suffix, score_sets

if TYPE_CHECKING:
    from experiments.tasks.lm_eval_adapter import HarnessLM


@without_denormals()
def score_run(
    run_dir: Path,
    overrides: Sequence[str],
    chosen: Chosen,
    library: Path | None = None,
    change: Change | None = None,
) -> RunRecord:
    """Scores what is missing and returns the record with it. overrides: of SCORING; library: the
    folder of adapters beside the model. Results with either, or with a change, are marked so.

    Raises ValueError for a run that is not done, for keys that would change the run itself, and
    if the data is no longer what the run was trained on.
    """
    run_dir = reached(run_dir)
    record = finished_record(run_dir)
    mark = "" if library is None else library_label(library)
    mark += "" if change is None else change.label
    if chosen:
        _check_causal(run_dir, record)
    run = read_run(run_dir, record, overrides, SCORING)
    config, rule = run.config, run.config.evaluation
    harness = load_tasks(chosen.harness, chosen.folder, rule.stride, chosen.rule)
    scored = _marked(record.evaluations, mark)
    harness = harness.without_scored(scored)
    sets = prepare_sets(config.data, config.eval, run.vocabulary, run.cache)
    known = {name: r.get("tokens_digest") for name, r in scored.items()}
    suffix = rule_suffix(rule)
    missing = {n: text for n, text in sets.items() if known.get(n + suffix) != text.digest}
    encoder = Encoder.of(run.vocabulary)
    made = facts_tasks(chosen.facts, config.data.corpus, run.cache)
    local = [
        encode_task(task, encoder, config.data.seq_len)
        for task in (*chosen.local, *made)
        if not is_scored(task, scored)
    ]
    if not (missing or local or harness.named):
        return record
    check_writable(run_dir, "where the scores go into its record")
    scorer = make_scorer(run)
    if change is not None:
        change.change(scorer.model)
    if library is not None:
        attach_library(library, run_dir, record, scorer.model)
    scores = score_sets(
        scorer.model,
        missing,
        run.vocabulary,
        rule,
        seq_len=scorer.seq_len,
        batch_size=config.ladder.batch_size,
        device=scorer.device,
        started=_announce,
    )
    for encoded in local:
        _announce(encoded.task.name)
        scores[KEY + encoded.task.name] = score_task(encoded, scorer)
    record = _add(run_dir, scores, mark)
    if harness.named:
        _announce(", ".join(harness.named))
        found = score_tasks(harness, scorer, encoder, rule.stride, record.run_id)
        record = _add(run_dir, found, mark)
    return record


def harness_model(run_dir: Path, overrides: Sequence[str] = ()) -> "HarnessLM":
    """A finished run as lm-evaluation-harness' LM, for lm_eval.simple_evaluate.

    Raises ValueError as score_run does, and RuntimeError without the extra.
    """
    check_extra()
    from experiments.tasks.lm_eval_adapter import HarnessLM

    record = finished_record(run_dir)
    _check_causal(run_dir, record)
    run = read_run(run_dir, record, overrides, SCORING)
    encoder = Encoder.of(run.vocabulary)
    return HarnessLM(make_scorer(run), encoder, run.config.evaluation.stride)


def tables(record: RunRecord) -> list[str]:
    """Scores of sets and of tasks; one of which a record has none is left out."""
    scores = record.evaluations
    return [table for table in (results_table(scores), tasks_table(scores)) if table]


def _check_causal(run_dir: Path, record: RunRecord) -> None:
    if not record.causal_eval:
        raise ValueError(
            f"{run_dir} has a layer of expert choice, which routes by later tokens too: it gives a "
            "continuation no probability of its own and can't be scored on tasks; eval=[...] "
            "scores it on texts, marked as not causal"
        )


def make_scorer(run: Finished) -> Scorer:
    """A finished run's model as a scorer, on its device."""
    return Scorer(
        model=trained_model(run),
        seq_len=run.config.data.seq_len,
        batch_size=run.batch_size,
        device=run.device,
    )


def _marked(evaluations: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """Results with a mark at the end of their names, by the names without it."""
    if not mark:
        return dict(evaluations)
    return {n.removesuffix(mark): r for n, r in evaluations.items() if n.endswith(mark)}


def _add(run_dir: Path, found: Mapping[str, dict[str, Any]], mark: str) -> RunRecord:
    """Record as it is by now, with the scores; written."""
    now = read_record(run_dir / RECORD_NAME)
    scores = {name + mark: result for name, result in found.items()}
    record = replace(now, evaluations={**now.evaluations, **scores})
    write_record(run_dir, record)
    return record


def _announce(name: str) -> None:
    print(f"scoring {name}", flush=True)
