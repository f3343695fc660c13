"""Scores a finished run on more sets: `python -m experiments.evaluate RUN eval=[wikitext2]`.

RUN is a run's folder. The numbers go into its record; a set that was scored by the same rule
before is left alone.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.cli import exit_codes
from experiments.config.paths import conf_dir
from experiments.data.prepare import prepare_data, prepare_sets
from experiments.finished import PLACES, finished_record, run_config, trained_model
from experiments.point import make_point
from experiments.records import RECORD_NAME, RunRecord, read_record, write_record
from experiments.system.version import version_line
from experiments.training.evaluation import results_table, rule_suffix, score_sets

_NODES = ("eval", "evaluation", *PLACES)  # what the command line may change

USAGE = """\
usage: python -m experiments.evaluate RUN eval=[NAME,...] [evaluation.stride=N] ...

Scores the checkpoint of a finished run and writes the results into its record.

  RUN                         the run's folder, results/<sweep>/<run_id>
  eval=[NAME,...]             {sets}
  evaluation.stride=N         sliding windows: N targets a window, with at least
                              seq_len - N tokens before each; fixed windows without it
  evaluation.max_tokens=N     of each set, in windows spread evenly; all without it
  evaluation.batch_size=N     sequences; changes no result but expert choice's
  eval.NAME.corpus.path=PATH  a hub set's local copy
  trainer.accelerator=cpu     and other keys of trainer and paths
"""


def evaluate_run(run_dir: Path, overrides: Sequence[str]) -> RunRecord:
    """Scores what is missing and returns the record with it.

    Raises ValueError for a run that is not done, for keys that would change the run itself, and
    if the data is no longer what the run was trained on.
    """
    record = finished_record(run_dir)
    point = make_point(run_config(record, overrides, _NODES))
    if not point.config.eval:
        raise ValueError(f"no sets named; give eval=[NAME,...] of {', '.join(known_sets())}")
    if point.run_id != record.run_id:
        raise ValueError(
            f"the data that {run_dir} names is not what it was trained on (its identity is "
            f"{point.run_id} now); restore the files, or train again"
        )
    prepared = prepare_data(point.config.data, point.cache)
    sets = prepare_sets(point.config.data, point.config.eval, prepared.vocabulary, point.cache)
    suffix = rule_suffix(point.config.evaluation)
    missing = {
        name: tokens
        for name, tokens in sets.items()
        if record.evaluations.get(name + suffix, {}).get("tokens_digest") != tokens.digest
    }
    if missing:
        scores = score_sets(
            trained_model(run_dir, point, prepared.vocabulary),
            missing,
            prepared.vocabulary,
            point.config.evaluation,
            seq_len=point.config.data.seq_len,
            batch_size=point.config.ladder.batch_size,
            device=torch.device(point.device.accelerator),
            started=lambda name: print(f"scoring {name}", flush=True),
        )
        now = read_record(run_dir / RECORD_NAME)  # as it is by now
        record = replace(now, evaluations={**now.evaluations, **scores})
        write_record(run_dir, record)
    return record


def known_sets() -> list[str]:
    """The names of conf/eval."""
    return sorted(path.stem for path in (conf_dir() / "eval").glob("*.yaml"))


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:]
    runs = [a for a in arguments if "=" not in a and not a.startswith("-")]
    if {"-h", "--help"} & set(arguments) or not arguments:
        print(USAGE.format(sets=", ".join(known_sets())))
        return
    if "--version" in arguments:
        print(version_line())
        return
    with exit_codes():
        if len(runs) != 1:
            raise ValueError(f"one run's folder is needed, and {len(runs)} are given; see --help")
        run_dir = Path(runs[0])
        record = evaluate_run(run_dir, [a for a in arguments if a not in runs])
        print(results_table(record.evaluations))
        print(f"record: {run_dir / RECORD_NAME}")


if __name__ == "__main__":
    main()
