"""The options that several commands of `python -m analysis` have."""

import argparse

from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import METHODS
from analysis.options import number_or_range

UNLESS_TYPED = {"x": "n_params", "method": "slice", "n_nearest": None}  # of add_curves
_SIZES = [name for name in X_NAMES if name != "n_tokens"]


def add_curves(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--x",
        default=UNLESS_TYPED["x"],
        choices=X_NAMES,
        help="the size on the axis (%(default)s)",
    )
    sub.add_argument(
        "--method",
        default=UNLESS_TYPED["method"],
        choices=METHODS,
        help="how a minimum is found: by curves whose skew the budgets of a model share, by "
        "parabolas, or by interpolation",
    )
    sub.add_argument(
        "--n-nearest", type=int, metavar="N", help="fit only the N sizes nearest to the best"
    )


def add_surface(sub: argparse.ArgumentParser, draws: int, delta: float | None) -> None:
    """Adds the options of surfaces in size and tokens; draws: of the bootstrap, by default; delta:
    Huber's, None for that of the runs' scatter.
    """
    sub.add_argument("--model", help="only this one (default: each)")
    sub.add_argument("--x", default="n_params", choices=_SIZES, help="what N is (%(default)s)")
    shown = "1.345 standard deviations of the runs" if delta is None else delta
    sub.add_argument("--delta", type=float, default=delta, help=f"Huber's delta ({shown})")
    sub.add_argument("--draws", type=int, default=draws, help="of the bootstrap (%(default)s)")


def add_noise(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--noise",
        type=float,
        metavar="NATS",
        help="standard deviation of a loss, if known from seeds (default: from the scatter)",
    )


def add_cluster(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--cluster",
        metavar="COLUMN",
        help="bootstrap whole runs: rows with one value of it, e.g. checkpoints of a run, are "
        "drawn together (default: trunk, where rows are branches of one; else each by itself)",
    )


def add_choice(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--model", help="which model, if the table has several")
    sub.add_argument("--baseline", help="the model that others are compared with")


def add_asymptote(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--asymptote",
        type=number_or_range,
        metavar="NATS[,NATS]",
        help="the loss no compute beats, or its lowest and highest value, for compute "
        "multipliers; it belongs to the evaluation set (default: fitted)",
    )
