"""Scores a finished run on texts and tasks: `python -m experiments.evaluate RUN eval=[...]`.

RUN is a run's folder. The numbers go into its record; a set or a task that was scored by the same
rule before is left alone.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.config.hydra_hints import choice_names
from experiments.config.words import LIBRARY, PATCH, SCORING, Words, read_words
from experiments.inspection.editing.patch import named_patch
from experiments.records.files import RECORD_NAME
from experiments.records.finished import finished_record
from experiments.records.record import RunRecord
from experiments.system.command import needs_train, run_words
from experiments.system.plain_text import printable
from experiments.tasks.facts import known_tasks
from experiments.tasks.harness_names import harness_names
from experiments.tasks.harness_rule import OPTIONS

with needs_train():
    from experiments.config.composed import composed
    from experiments.tasks.choice import FOLDER, TASKS, choose

_KEYS = (TASKS, FOLDER, *OPTIONS, LIBRARY, PATCH)  # the command's own
_LIST = "list"

USAGE = """\
usage: python -m experiments.evaluate RUN [eval=[NAME,...]] [tasks=[NAME,...]] ...

Scores the checkpoint of a finished run and writes the results into its record.

  RUN                         the run's folder, results/<sweep>/<run_id>
  eval=[NAME,...]             {sets}
  tasks=[NAME,...]            {tasks}, or a file of items (.jsonl),
                              or tasks of lm-evaluation-harness, by name or as a yaml file
  tasks=list                  prints all names of tasks, without a RUN
  num_fewshot=N limit=N       of lm-evaluation-harness' tasks: examples before each question, and
                              how many questions, or which share; marked by @num_fewshot=N,limit=N
  output_path=FOLDER          its results_*.json; with log_samples=true each question with its
                              answers too, samples_*.jsonl
  library=FOLDER              with adapters that are found at run time (experiments.library);
                              results are marked by @library=NAME
  patch=FILE                  with edits of its experts (inspect patch); marked by @patch=NAME
  tasks_folder=PATH           where yamls of such tasks are looked for too
  evaluation.stride=N         sliding windows: N targets a window, with at least
                              seq_len - N tokens before each; fixed windows without it
  evaluation.max_tokens=N     of each set, in windows spread evenly; all without it
  evaluation.batch_size=N     sequences; changes no result but expert choice's
  eval.NAME.corpus.path=PATH  a hub set's local copy
  trainer.accelerator=cpu     and other keys of trainer and paths
"""


def evaluate_run(run_dir: Path, overrides: Sequence[str]) -> RunRecord:
    """Scores what is missing, as a command line's words say, and returns the record with it.

    Raises ValueError as read_words, choose and score_run do.
    """
    return _evaluate(run_dir, read_words(overrides, keys=_KEYS, nodes=SCORING))


def _evaluate(run_dir: Path, words: Words) -> RunRecord:
    record = finished_record(run_dir)
    change = named_patch(words.values, run_dir, record)
    chosen = choose(words.values)
    if not chosen and not composed(words.overrides)["eval"]:
        raise ValueError(
            f"no sets named; give eval=[NAME,...] of {', '.join(choice_names('eval'))}, or "
            f"tasks=[NAME,...] of {', '.join(known_tasks())}"
        )
    library = Path(words.values[LIBRARY]).expanduser() if LIBRARY in words.values else None
    from experiments.finished.scores import (
        score_run,  # seconds, which a misspelt name need not wait for
    )

    return score_run(run_dir, words.overrides, chosen, library, change)


def _run(words: Words) -> None:
    rest = "names of sets and tasks are given as eval=[NAME,...] and tasks=[NAME,...]"
    if words.values.get(TASKS) == _LIST and not words.plain:
        folder = words.values.get(FOLDER)
        for name in (*known_tasks(), *harness_names(Path(folder) if folder else None)):
            print(printable(name))
        return
    run_dir = Path(words.one_run(rest))
    record = _evaluate(run_dir, words)
    from experiments.finished.scores import tables

    for table in tables(record):
        print(table)
    print(f"record: {run_dir / RECORD_NAME}")


def _usage() -> str:
    return USAGE.format(sets=", ".join(choice_names("eval")), tasks=", ".join(known_tasks()))


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_words(_usage, _run, keys=_KEYS, nodes=SCORING)


if __name__ == "__main__":
    main()
