"""Scores a finished run on more sets: `python -m experiments.evaluate RUN eval=[wikitext2]`.

RUN is a run's folder. The numbers go into its record; a set that was scored by the same rule
before is left alone.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose

from experiments.cli import exit_codes, resolve
from experiments.config.hydra_version import composing
from experiments.config.paths import conf_dir
from experiments.data.prepare import prepare_data, prepare_sets
from experiments.execute import build_model
from experiments.kernels.ops import Execution
from experiments.models.transformer import Transformer
from experiments.point import make_point
from experiments.records import RECORD_NAME, DamagedError, RunRecord, read_record, write_record
from experiments.system.version import version_line
from experiments.training.checkpoints import LAST
from experiments.training.evaluation import results_table, rule_suffix, score_sets
from experiments.training.seal import damage_of

_NODES = ("eval", "evaluation", "trainer", "paths")  # what the command line may change
_REMEDY = f"put a copy of it back, or delete {RECORD_NAME} and run the same command to train again"

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
    record = _finished(run_dir)
    raw = _config(record, overrides)
    point = make_point(raw)
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
        device = torch.device(point.device.accelerator)
        model = build_model(point, prepared)
        model.set_execution(Execution(kernel=point.config.kernel))
        _load(model, run_dir / LAST, point.plan.n_steps)
        scores = score_sets(
            model.to(device),
            missing,
            prepared.vocabulary,
            point.config.evaluation,
            seq_len=point.config.data.seq_len,
            batch_size=point.config.ladder.batch_size,
            device=device,
            started=lambda name: print(f"scoring {name}", flush=True),
        )
        now = read_record(run_dir / RECORD_NAME)  # as it is by now
        record = replace(now, evaluations={**now.evaluations, **scores})
        write_record(run_dir, record)
    return record


def known_sets() -> list[str]:
    """The names of conf/eval."""
    return sorted(path.stem for path in (conf_dir() / "eval").glob("*.yaml"))


def _finished(run_dir: Path) -> RunRecord:
    path = run_dir / RECORD_NAME
    if not path.exists():
        raise ValueError(f"{run_dir} is not a finished run: it has no {RECORD_NAME}")
    record = read_record(path)
    if record.status != "done":
        raise ValueError(f"{run_dir} is {record.status}, and only a run that is done is scored")
    if not (run_dir / LAST).exists():
        raise ValueError(f"{run_dir} has no {LAST} to score; {_REMEDY}")
    return record


def _config(record: RunRecord, overrides: Sequence[str]) -> dict[str, Any]:
    """The run's own config, with the nodes that the command line may change."""
    for override in overrides:
        node = override.lstrip("+~").partition("=")[0].partition(".")[0]
        if node not in _NODES:
            raise ValueError(
                f"{override}: only {', '.join(_NODES)} can be given here; the rest is the run's"
            )
    with composing():
        composed = resolve(compose("config", list(overrides), return_hydra_config=True))
    # "sweep": an old record may have a name that is no longer allowed; it is not used here
    return {**record.config, "sweep": "scored", **{node: composed[node] for node in _NODES}}


def _load(model: Transformer, checkpoint: Path, n_steps: int) -> None:
    """The weights of a checkpoint that train.py wrote at the end, after n_steps.

    Raises DamagedError if it is not whole or is another: no other stands for the run's end.
    """
    why = damage_of(checkpoint)
    if why is not None:
        raise DamagedError(checkpoint, why, _REMEDY)
    prefix = "model."
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
        state = loaded["state_dict"].items()
        model.load_state_dict({k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)})
    except Exception as error:  # torch has many, of several lines
        why = f"it does not hold this run's weights: {str(error).splitlines()[0]}"
        raise DamagedError(checkpoint, why, _REMEDY) from error
    if loaded["global_step"] != n_steps:
        why = f"it is of step {loaded['global_step']}, and the run ended at {n_steps}"
        raise DamagedError(checkpoint, why, _REMEDY)


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
