"""Dataset card of a published sweep: README.md as the Hugging Face hub reads it."""

import shlex
from collections.abc import Sequence

from experiments.interchange import runs_card
from experiments.interchange.runs_card import UNKNOWN, once
from experiments.interchange.texts import find_texts
from experiments.records.record import RunRecord, typed_command
from experiments.system.text_table import filled, markdown

TABLE = "records.parquet"
_TASKS = ("text-generation",)
_RUN, _RETRY = "experiments.run", "python -m experiments.retry"


def publication_card(
    records: Sequence[RunRecord],
    licence: str,
    version: str,
    commit: str | None,
    models: Sequence[str],
) -> str:
    """README.md of the folder. records: of all results, as they are published; version, commit: of
    the code that writes it; models: run ids of those whose weights are there.
    """
    done = [record for record in records if record.status == "done"]
    sweep = records[0].sweep
    sections = (
        runs_card.front(sweep, TABLE, len(records), licence, _TASKS),
        f"# Runs of the sweep {sweep}\n\n{_about(done, licence)}",
        f"## Files\n\n{_files(models)}",
        f"## Reading it\n\n{_reading()}",
        f"## Repeating it\n\n{_repeating(records, version, commit)}",
        f"## How it was made\n\n{runs_card.made(done, with_commands=False)}",
        f"## Texts\n\n{_texts(done)}",
        f"## Provenance\n\n{runs_card.provenance(records)}",
        f"## Limits\n\n{runs_card.limits(records, done, 'are in no fit')}",
    )
    return "\n\n".join(sections) + "\n"


def _about(done: Sequence[RunRecord], licence: str) -> str:
    chosen = "Its licence was not said: choose one before you publish it."
    said = chosen if licence == UNKNOWN else f"Licence: {licence} (LICENSE)."
    return filled(f"{runs_card.trained(done)} {said}")


def _files(models: Sequence[str]) -> str:
    rows = [
        ("file", "what it is"),
        ("`records.parquet`, `records.csv`", "a row a run, with its counts, losses and settings"),
        ("`report.html`, `figures/`", "fits, tables and figures on one page"),
        ("`fits.json`, `table.csv`", "the fits' numbers, and the table that they are of"),
        ("`runs/ID/`", "a run: its record, its settings (config.yaml), its loss curve"),
        ("`runs/manifest.jsonl`", "the plan: a line a run, with all settings"),
        ("`SHA256SUMS`, `publication.json`", "checksums; what this folder is"),
    ]
    if models:
        rows.append(("`models/ID/`", f"weights of {len(models)} runs, as transformers loads them"))
    return "\n".join(markdown(rows))


def _reading() -> str:
    code = _code(
        "sha256sum --check --quiet SHA256SUMS",
        "python -m analysis report .            # the same fits, from runs/",
        "python -c \"import datasets; print(datasets.load_dataset('.'))\"",
    )
    text = "All of it is data; the models' own code alone runs, and only where that is allowed."
    return f"{code}\n\n{filled(text)}"


def _repeating(records: Sequence[RunRecord], version: str, commit: str | None) -> str:
    commits = once(str(r.environment.get("git_commit") or "") for r in records)
    commands = once(typed_command(r.environment) for r in records)
    typed = [command for command in commands if _RUN in command.split()]
    lines = [f"git checkout {shlex.quote(commits[0])}"] if len(commits) == 1 else []
    of = "" if commit is None else f" at commit {commit}"
    these = "these commands" if typed[1:] else "this command"
    asked = f"The runs were asked for by {these}, texts by the last part of their path:"
    again = ["cp -r runs results/again", "rm -r results/again/ID", f"{_RETRY} again --local"]
    parts = [
        filled(f"This folder was written by the harness expert-isoflops, version {version}{of}."),
        *([filled(asked), _code(*lines, *typed)] if typed else []),
        filled(
            "The settings of each run, to the last default, are in runs/manifest.jsonl. To train "
            "one again by them, remove it in a copy:"
        ),
        _code(*again),
    ]
    return "\n\n".join(parts)


def _code(*lines: str) -> str:
    return "\n".join(["```", *lines, "```"])


def _texts(done: Sequence[RunRecord]) -> str:
    corpora = (record.config.get("data", {}).get("corpus", {}) for record in done)
    found = dict.fromkeys(text for corpus in corpora for text in find_texts(corpus))
    lines = [f"- {text.about}: {text.licence}" for text in found]
    note = "The models were trained on these texts, by their licences. They are not in this folder."
    return "\n".join([filled(note), "", *lines])
