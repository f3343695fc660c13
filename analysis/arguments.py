"""The options that commands of `python -m analysis` share."""

import argparse
from typing import Any

from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import METHODS
from analysis.options import named_path, number_or_range
from analysis.table.budgets import TOLERANCE

Subparsers = Any  # argparse's own class for them has no public name


def add_command(
    subparsers: Subparsers, name: str, run: object, text: str
) -> argparse.ArgumentParser:
    """One that reads a table: with the options of all."""
    sub = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.set_defaults(run=run)
    sub.add_argument(
        "path",
        type=named_path,
        help="a sweep's folder, a CSV or Parquet file, or an export of W&B",
    )
    sub.add_argument("--json", action="store_true", help="print the result as JSON instead")
    sub.add_argument(
        "--out",
        type=named_path,
        metavar="DIR",
        help="where files go (default: the sweep's folder)",
    )
    sub.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="a foreign table's name for one of our columns, e.g. n_params=params; repeatable",
    )
    sub.add_argument(
        "--unit",
        action="append",
        default=[],
        metavar="OURS=UNIT",
        help="what a column's numbers are in: budget=GFLOP, n_tokens=B, loss=bit/byte, or a "
        "factor; repeatable",
    )
    sub.add_argument(
        "--series",
        metavar="COLUMN[,COLUMN]",
        help="whose values name a curve (default: the model and what varies in its layer); "
        "none: all runs are one",
    )
    sub.add_argument(
        "--separator",
        metavar="MARK",
        help="of a CSV: comma, semicolon, tab, pipe or a mark (default: as its lines show)",
    )
    sub.add_argument(
        "--budgets",
        metavar="FLOPS[,FLOPS]",
        help="the budgets that runs belong to, each to the nearest within the tolerance, e.g. "
        "6e18,1e19 (default: values near one another are one)",
    )
    sub.add_argument(
        "--budget-tolerance",
        type=float,
        metavar="SHARE",
        help="how far a run's own FLOPs may be from its budget, as a share of it; 0 keeps all "
        f"values apart (default: {TOLERANCE}; 0 of a sweep's folder, where they are planned)",
    )
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE]",
        help="only the runs that have it, e.g. query_norm=batch; repeatable",
    )
    sub.add_argument(
        "--flops",
        choices=["6nd"],
        help="take C = 6ND where a table has only two of them; wrong where attention or the "
        "vocabulary dominates",
    )
    return sub


def add_curves(sub: argparse.ArgumentParser) -> None:
    """Of isoFLOP curves."""
    sub.add_argument(
        "--x", default="n_params", choices=X_NAMES, help="the size on the axis (%(default)s)"
    )
    sub.add_argument(
        "--method",
        default="slice",
        choices=METHODS,
        help="how a minimum is found: by curves whose skew the budgets of a model share, by "
        "parabolas, or by interpolation",
    )
    sub.add_argument(
        "--n-nearest", type=int, metavar="N", help="fit only the N sizes nearest to the best"
    )


def add_noise(sub: argparse.ArgumentParser) -> None:
    """Of seeds."""
    sub.add_argument(
        "--noise",
        type=float,
        metavar="NATS",
        help="standard deviation of a loss, if known from seeds (default: from the scatter)",
    )


def add_cluster(sub: argparse.ArgumentParser) -> None:
    """Of a bootstrap."""
    sub.add_argument(
        "--cluster",
        metavar="COLUMN",
        help="bootstrap whole runs: rows with one value of it, e.g. checkpoints of a run, are "
        "drawn together (default: trunk, where rows are branches of one; else each by itself)",
    )


def add_choice(sub: argparse.ArgumentParser) -> None:
    """Which models."""
    sub.add_argument("--model", help="which model, if the table has several")
    sub.add_argument("--baseline", help="the model that others are compared with")


def add_asymptote(sub: argparse.ArgumentParser) -> None:
    """Of laws of compute."""
    sub.add_argument(
        "--asymptote",
        type=number_or_range,
        metavar="NATS[,NATS]",
        help="the loss no compute beats, or its lowest and highest value, for compute "
        "multipliers; it belongs to the evaluation set (default: fitted)",
    )
