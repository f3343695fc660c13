"""Runs to make next for a named interval."""

from pathlib import Path

import pandas as pd

from analysis.command import Command, Options, Output, load_runs
from analysis.design.choose import next_runs
from analysis.design.sweep import experiment_yaml
from analysis.design.targets import FORMS
from analysis.isoflop.fit import X_NAMES
from analysis.options import given, one_of
from analysis.progress import Steps
from analysis.staging import staged
from analysis.table.sources import read_source
from experiments.system.disk import followed, write_text


def _check(options: Options) -> None:
    path = options.write
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
        records = read_source(options.path).records
        said = experiment_yaml(found, records, path.stem, options.base, options.typed)
        with staged(followed(path.parent)) as new:
            write_text(new / path.name, said)
        text += f"\n\nexperiment: {path}"
    return Output(values=found.to_dict(), text=text)


COMMAND = Command(
    help="say which runs would narrow a named interval most per FLOP",
    options=f"""
--for!:target TARGET  the interval to narrow: {FORMS}. N* is the best size, a its exponent,
    alpha the loss's; MODEL-MODEL is a difference of lowest losses
--budget! FLOPS  to spend, in training FLOPs
--model MODEL  which model, if the table has several
--baseline=dense BASELINE  the model that a multiplier is beside (dense)
--x=n_params {one_of(X_NAMES[:3])}  the size that N* is (%(default)s)
--level=0.95 LEVEL  of the interval (%(default)s)
--write YAML  write the runs as an experiment, e.g. conf/experiment/NAME.yaml
--base EXPERIMENT  whose setting the experiment has (default: the one that the runs are of)
""",
    check=_check,
    read=lambda options: load_runs(options, needs=("budget", options.x)),
    compute=_compute,
)
