"""The runs to make next for a named interval."""

import argparse
from pathlib import Path

import pandas as pd

from analysis.command import Command, Options, Output, table_of
from analysis.design.choose import next_runs
from analysis.design.sweep import experiment_yaml
from analysis.design.targets import FORMS
from analysis.isoflop.fit import X_NAMES
from analysis.options import named_path
from analysis.progress import Steps
from analysis.staging import staged
from analysis.table.sources import read_source
from experiments.system.disk import followed, write_text


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--for",
        dest="target",
        required=True,
        metavar="TARGET",
        help=f"the interval to narrow: {FORMS}. N* is the best size, a its exponent, alpha the "
        "loss's; MODEL-MODEL is a difference of lowest losses",
    )
    sub.add_argument(
        "--budget", type=float, required=True, metavar="FLOPS", help="to spend, in training FLOPs"
    )
    sub.add_argument("--model", help="which model, if the table has several")
    sub.add_argument(
        "--baseline", default="dense", help="the model that a multiplier is beside (dense)"
    )
    sub.add_argument(
        "--x", default="n_params", choices=X_NAMES[:3], help="the size that N* is (%(default)s)"
    )
    sub.add_argument("--level", type=float, default=0.95, help="of the interval (%(default)s)")
    sub.add_argument(
        "--write",
        type=named_path,
        metavar="YAML",
        help="write the runs as an experiment, e.g. conf/experiment/NAME.yaml",
    )
    sub.add_argument(
        "--base",
        metavar="EXPERIMENT",
        help="whose setting the experiment has (default: the one that the runs are of)",
    )


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
        found = next_runs(
            table,
            options.target,
            options.budget,
            model=options.model,
            baseline=options.baseline,
            x=options.x,
            level=options.level,
            say=steps,
        )
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
    options=_options,
    check=_check,
    read=lambda options: table_of(options, needs=("budget", options.x)),
    compute=_compute,
)
