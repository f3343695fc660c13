"""Dataset card of a table of runs: README.md as the Hugging Face hub reads it."""

import json
import re
from collections.abc import Iterable, Sequence

from experiments.interchange.runs import Layout, describe_corpus, of_runs
from experiments.records.record import STATUSES, RunRecord, typed_command
from experiments.system.text_table import filled, markdown

UNKNOWN = "unknown"  # the hub's own word
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_SHOWN = 6  # values of a setting
_FLOPS = (
    "Training FLOPs, by each run's own count, term by term: attention, routing, the feed-forward "
    "layer and the head; a multiply-add is 2 FLOPs, training is 3 times the forward pass (less "
    "where weights are frozen). Gathers, norms and softmax are not counted. It is not 6ND."
)


def check_licence(text: str) -> str:
    """Raises ValueError for what can't be one of the hub's identifiers, e.g. cc-by-4.0."""
    if not _LICENCE.fullmatch(text):
        raise ValueError(
            f"--license {text!r} must be an identifier of the hub in lower case, e.g. cc-by-4.0"
        )
    return text


def runs_card(layout: Layout, records: Sequence[RunRecord], csv_name: str, licence: str) -> str:
    """README.md of a folder with this table. records: of the sweep, all that were read."""
    done = [record for record in records if record.status == "done"]
    sweep = done[0].sweep
    sections = (
        front(sweep, csv_name, len(done), licence),
        f"# Runs of the sweep {sweep}\n\n{_about(layout, done, licence)}",
        f"## Columns\n\n{_columns(of_runs(layout, done))}",
        f"## How it was made\n\n{made(done)}",
        f"## Provenance\n\n{provenance(records)}",
        f"## Limits\n\n{limits(records, done)}",
    )
    return "\n\n".join(sections) + "\n"


def front(sweep: str, file: str, n: int, licence: str, tasks: Sequence[str] = ()) -> str:
    """Card's head, which the hub reads. file: of the table, with n rows; tasks: the hub's names."""
    size = next((name for most, name in _SIZES if n < most), "100K<n<1M")
    lines = [
        f"license: {licence}",
        f"pretty_name: {json.dumps(f'Runs of the sweep {sweep}')}",  # JSON is YAML
        *(["task_categories:"] if tasks else []),
        *(f"- {task}" for task in tasks),
        "tags:",
        "- scaling-laws",
        "- isoflop",
        "- language-modeling",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        f"  data_files: {json.dumps(file)}",
    ]
    return "\n".join(["---", *lines, "---"])


def _about(layout: Layout, done: Sequence[RunRecord], licence: str) -> str:
    text = (
        f"{trained(done)} The columns and units are those of {layout.project}, with more behind "
        "them. A row is a run; its loss is that of the end of its schedule."
    )
    chosen = "The table's licence was not said." if licence == UNKNOWN else ""
    return filled(f"{text} {chosen}".strip())


def trained(done: Sequence[RunRecord]) -> str:
    """Models that are done, in a sentence or two."""
    models = once(record.model for record in done)
    budgets = sorted({record.budget for record in done})
    sizes = [record.n_params for record in done]
    return (
        f"{len(done)} language models, trained to compare feed-forward layers at equal compute: "
        f"{', '.join(models)}. {len(budgets)} training budgets of {budgets[0]:.3g} to "
        f"{budgets[-1]:.3g} FLOPs, {min(sizes):,} to {max(sizes):,} parameters."
    )


def _columns(layout: Layout) -> str:
    rows = [(f"`{c.name}`", c.unit or "-", c.meaning) for c in layout.columns]
    return "\n".join(markdown([("column", "unit", "meaning"), *rows]))


def made(done: Sequence[RunRecord], with_commands: bool = True) -> str:
    """How runs were made, a line a setting; and the commands, if asked for."""

    def setting(*keys: str) -> str:
        return _listed(_value(record, keys) for record in done)

    facts = {
        "corpus": _listed(describe_corpus(record) for record in done),
        "tokenizer": _listed(
            _value(record, ("data", "tokenizer", "_target_")).rpartition(".")[2] for record in done
        ),
        "vocabulary": setting("ladder", "vocab_size"),
        "sequence length": setting("data", "seq_len"),
        "schedule": setting("optim", "schedule"),
        "precision": _listed(
            record.precision or _value(record, ("trainer", "precision")) for record in done
        ),
        "device": _listed(str(record.environment.get("device") or "") for record in done),
    }
    lines = [f"- {name}: {value}" for name, value in facts.items() if value]
    commands = once(typed_command(record.environment) for record in done)
    code = ["", "```", *commands, "```"] if with_commands and any(commands) else []
    return "\n".join([*lines, *code]) or "The records do not say."


def provenance(records: Sequence[RunRecord]) -> str:
    """Where runs come from, a line each: commits, states, dates, how FLOPs are counted."""
    counts = {status: sum(r.status == status for r in records) for status in STATUSES}
    commits = ", ".join(once(_commit(record) for record in records))
    started = sorted(record.started[:10] for record in records if record.started)
    lines = [
        f"- git commit: {commits or 'not recorded'}",
        f"- runs: {', '.join(f'{n} {status}' for status, n in counts.items())}; those that are "
        "done are in the table",
        f"- trained: {' to '.join(once((started[0], started[-1])))}" if started else "",
        "- harness: expert-isoflops, which wrote this card from the runs' records",
        f"- FLOPs: {_FLOPS}",
    ]
    return "\n".join(filled(line, "  ") for line in lines if line)


def limits(
    records: Sequence[RunRecord], done: Sequence[RunRecord], others: str = "have no row"
) -> str:
    """Lines on all that a table of the runs that are done does not show. others: what those that
    are not done have.
    """
    left_out = len(records) - len(done)
    leaky = once(record.model for record in done if not record.causal_eval)
    repeated = max((record.epochs for record in done if record.epochs is not None), default=0.0)
    started = [record for record in done if record.init]
    seeds = {record.seed for record in done}
    found = [
        f"{left_out} runs failed, diverged or were stopped as hopeless, and {others}."
        if left_out
        else "",
        f"The evaluation of {', '.join(leaky)} is not causal: its routing sees later tokens."
        if leaky
        else "",
        f"Up to {repeated:.3g} passes over the corpus." if repeated > 1 else "",
        "One seed: this table does not show the noise of a loss." if len(seeds) == 1 else "",
        f"{len(started)} runs started from trained weights; their FLOPs are those of this training "
        "alone."
        if started
        else "",
        "Losses compare within one tokenizer and held-out text only.",
        "Learning rates were tuned as far as the column lr shows, and no further.",
    ]
    return "\n".join(filled(f"- {text}", "  ") for text in found if text)


def _value(record: RunRecord, keys: Iterable[str]) -> str:
    value: object = record.config
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def _commit(record: RunRecord) -> str:
    commit = record.environment.get("git_commit")
    changed = " with changes" if record.environment.get("git_dirty") else ""
    return f"{commit}{changed}" if commit else ""


def once(values: Iterable[str]) -> list[str]:
    """Each text once, in order; no empty ones."""
    return [value for value in dict.fromkeys(values) if value]


def _listed(values: Iterable[str]) -> str:
    found = once(values)
    more = f", and {len(found) - _SHOWN} more" if found[_SHOWN:] else ""
    return ", ".join(found[:_SHOWN]) + more
