"""Runs that would narrow an interval most per FLOP."""

from pathlib import Path

import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.options import given
from analysis.planning.experiment import experiment_yaml
from analysis.planning.runs import next_runs
from analysis.planning.targets import FORMS
from analysis.progress import Steps
from analysis.questions import Question
from analysis.staging import staged
from experiments.system.disk import followed, write_text


def _check(options: Options) -> None:
    path = options.write
    if options.x == "n_tokens":
        raise ValueError("--x n_tokens is of a plan by isoFLOP curves: runs have a size")
    if options.base and path is None:
        raise ValueError(f"--base {options.base} is of --write YAML; give it too")
    if path is not None and path.suffix != ".yaml":
        raise ValueError(f"--write {path} must end with .yaml, e.g. conf/experiment/NAME.yaml")
    if path is not None and path.exists():
        raise ValueError(f"--write {path} is there already; name another, or remove it")
    if path is not None and not options.path.is_dir():
        raise ValueError(
            f"--write needs a sweep's folder, whose runs have settings, not {options.path}"
        )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    steps = Steps()
    try:
        found = next_runs(table, **given(options, next_runs), say=steps)
    finally:
        steps.close()
    text = found.summary()
    if options.write is not None:
        path: Path = options.write
        records = options.source.records
        said = experiment_yaml(found, records, path.stem, options.base, options.typed)
        with staged(followed(path.parent)) as new:
            write_text(new / path.name, said)
        text += f"\n\nexperiment: {path}"
    return Output(values=found.to_dict(), text=text)


QUESTION = Question(
    help="which runs would narrow an interval most per FLOP",
    order=1,
    options=f"""
--for:target TARGET  the interval to narrow: {FORMS}. N* is the best size, a its exponent,
    alpha the loss's; MODEL-MODEL is a difference of lowest losses
--write YAML  write the runs as an experiment, e.g. conf/experiment/NAME.yaml
--base EXPERIMENT  whose setting the experiment has (default: the one that the runs are of)
""",
    takes={"budget": "to spend on the next runs", "model": "", "x": ""},
    requires=("target", "budget"),
    check=_check,
    read=lambda options: load_runs(options, options.source, needs=("budget", options.x)),
    compute=_compute,
)
