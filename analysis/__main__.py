"""From a sweep's runs to fitted laws, figures and a report: `python -m analysis report PATH`."""

import argparse
import os
import shlex
import sys

import matplotlib as mpl

from analysis import commands, decisions
from analysis.experts.compare import DEFAULT_FORMS, HOLD_OUT
from analysis.experts.fit import BACKBONE
from analysis.experts.forms import FORMS
from analysis.flatness import WITHIN
from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import METHODS
from analysis.multiplier.profile import SLOPES
from analysis.options import Parser, as_typed, check_options, named_path, number_or_range
from analysis.rates.cells import NEAREST
from analysis.rates.fit import HORIZONS, WIDTHS
from analysis.surfaces.compare import HELD_OUT
from analysis.surfaces.forms import SURFACES
from analysis.table.budgets import TOLERANCE
from experiments.system.version import ShowVersion

_SIZES = [name for name in X_NAMES if name != "n_tokens"]


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 bad input, 1 what the machine denies, 130 interrupted; each but the
    first with one line on stderr, and nothing written.
    """
    options = _parser().parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    options.typed = shlex.join(["python", "-m", "analysis", *map(str, words)])
    mpl.use("Agg")
    try:
        check_options(options)
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has read enough, e.g. head
        _drop_output()
    except KeyboardInterrupt:
        return _refuse("interrupted; nothing was written", 130)
    except ValueError as error:
        return _refuse(as_typed(str(error)), 2)
    except OSError as error:
        where = error.filename
        if where is None:  # printing is all that is done without a name
            _drop_output()
            return _refuse(f"can't print: {error.strerror or error}; free some space", 1)
        return _refuse(f"{where}: {error.strerror}; make it readable, or name another", 1)
    except RuntimeError as error:
        return _refuse(str(error), 1)
    except MemoryError:
        return _refuse("the memory does not suffice; take fewer runs, e.g. by --where", 1)
    return 0


def _refuse(why: str, code: int) -> int:
    print(f"error: {' '.join(why.split())}", file=sys.stderr)
    return code


def _drop_output() -> None:
    """What is left to print goes nowhere, so that Python doesn't try it again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m analysis", description=__doc__)
    parser.add_argument("--version", action=ShowVersion)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: object, text: str) -> argparse.ArgumentParser:
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

    sub = add("isoflop", commands.isoflop, "fit and draw isoFLOP curves and their power laws")
    add_curves(sub)
    add_noise(sub)
    add_cluster(sub)
    sub.add_argument(
        "--brief", action="store_true", help="print a line a curve, without losses and laws"
    )

    sub = add("parametric", commands.parametric, "fit L = E + A/N^alpha + B/D^beta (approach 3)")
    sub.add_argument("--model", help="only this one (default: each)")
    sub.add_argument("--x", default="n_params", choices=_SIZES, help="what N is (%(default)s)")
    sub.add_argument("--delta", type=float, default=1e-3, help="Huber's delta (%(default)s)")
    sub.add_argument(
        "--residual",
        default="log",
        choices=["log", "loss"],
        help="of the log loss with Huber, or least squares of the loss",
    )
    sub.add_argument("--draws", type=int, default=1000, help="of the bootstrap (%(default)s)")
    add_cluster(sub)
    sub.add_argument(
        "--influence",
        action="store_true",
        help="find the runs that each parameter depends on most, and fit again without them",
    )

    sub = add("surfaces", commands.surfaces, "compare surfaces in size and tokens by hold-out")
    sub.add_argument("--model", help="only this one (default: each)")
    sub.add_argument("--x", default="n_params", choices=_SIZES, help="what N is (%(default)s)")
    sub.add_argument(
        "--form", action="append", choices=list(SURFACES), help="repeatable (default: all)"
    )
    sub.add_argument(
        "--hold-out",
        default="compute",
        choices=HELD_OUT,
        help="hold out the fifth of the runs with the most of it; ratio: D/N (%(default)s)",
    )
    sub.add_argument("--delta", type=float, default=1e-3, help="Huber's delta (%(default)s)")
    sub.add_argument("--draws", type=int, default=200, help="of the bootstrap (%(default)s)")
    add_cluster(sub)

    sub = add("experts", commands.experts, "compare laws of the loss in the number of experts")
    add_choice(sub)
    add_cluster(sub)
    sub.add_argument(
        "--form",
        action="append",
        choices=list(FORMS),
        help=f"repeatable (default: {', '.join(DEFAULT_FORMS)})",
    )
    sub.add_argument(
        "--hold-out",
        default="size",
        choices=HOLD_OUT,
        help="hold out the runs of its largest value, or the fifth of the most compute: cells "
        "(%(default)s)",
    )
    sub.add_argument(
        "--residual",
        default="log",
        choices=["log", "loss"],
        help="least squares of the log loss, or of the loss (%(default)s)",
    )
    sub.add_argument(
        "--size", default=BACKBONE, help="the column that N is (%(default)s: see docs/analysis.md)"
    )

    sub = add("differences", commands.differences, "compare models beside the noise of seeds")
    sub.add_argument(
        "--baseline", default="dense", help="the model that others are compared with (dense)"
    )
    sub.add_argument(
        "--budget", type=float, metavar="FLOPS", help="where (default: where most have seeds)"
    )
    sub.add_argument(
        "--by", metavar="COLUMN", help="at each of its values, e.g. n_experts, and on the average"
    )
    sub.add_argument(
        "--noise-of",
        type=float,
        metavar="FLOPS",
        help="the budget whose seeds give the noise (default: the one compared)",
    )

    sub = add(
        "multiplier",
        decisions.multiplier,
        "say how much more compute a baseline needs for the same loss",
    )
    sub.add_argument(
        "--baseline", default="dense", help="the model that others are compared with (dense)"
    )
    add_curves(sub)
    add_asymptote(sub)
    sub.add_argument(
        "--slopes",
        default="own",
        choices=SLOPES,
        help="an alpha for each model, or one for all (%(default)s)",
    )
    sub.add_argument(
        "--points",
        default="minima",
        choices=["minima", "lowest"],
        help="what the laws are of: minima of isoFLOP curves, or the lowest loss of each budget "
        "(%(default)s)",
    )
    sub.add_argument(
        "--at",
        type=float,
        action="append",
        default=[],
        metavar="FLOPS",
        help="state the multipliers at this compute of the models (default: at their budgets); "
        "repeatable",
    )
    sub.add_argument(
        "--at-loss",
        type=float,
        action="append",
        default=[],
        metavar="NATS",
        help="state them at this loss; repeatable",
    )

    sub = add("adaptation", commands.adaptation, "compare ways to adapt a model to a domain")
    sub.add_argument(
        "--general",
        default="wikitext2",
        metavar="SET",
        help="the set that stands for other text (%(default)s)",
    )

    add("adapters", commands.adapters, "compare ways to choose adapters at run time")

    add("growth", commands.growth, "compare runs that grew with runs of more experts throughout")

    add("forgetting", commands.forgetting, "compare ways to go on learning from a stream")

    sub = add("plan", decisions.planned, "say what size, tokens and experts a budget should buy")
    sub.add_argument(
        "--budget", type=float, required=True, metavar="FLOPS", help="in training FLOPs"
    )
    add_curves(sub)
    add_choice(sub)
    sub.add_argument("--form", choices=list(FORMS), help="a law of experts, to plan their number")
    sub.add_argument("--size", default=BACKBONE, help="the column that N is there (%(default)s)")
    sub.add_argument(
        "--min-gain",
        type=float,
        default=0.01,
        metavar="NATS",
        help="a doubling of the experts must gain this much (%(default)s)",
    )

    sub = add(
        "flatness",
        decisions.flat,
        "say what other sizes than the best cost, budget by budget",
    )
    add_curves(sub)
    add_noise(sub)
    sub.add_argument(
        "--within",
        type=float,
        default=WITHIN,
        metavar="NATS",
        help="give the sizes that cost this much (%(default)s)",
    )
    sub.add_argument(
        "--within-compute",
        type=float,
        metavar="SHARE",
        help="give those that cost as much as this share of compute, e.g. 0.05",
    )
    sub.add_argument("--baseline", help="the model whose best loss the sizes are compared with")

    sub = add("rates", decisions.rates, "find the best learning rate of each cell, and its law")
    add_noise(sub)
    sub.add_argument(
        "--width", choices=WIDTHS, help="the size in the law (default: d_model, else parameters)"
    )
    sub.add_argument(
        "--horizon", default=HORIZONS[0], choices=HORIZONS, help="the length in it (%(default)s)"
    )
    sub.add_argument(
        "--batch",
        metavar="COLUMN",
        help="the batch in it, each a cell of its own (default: batch_tokens of records; of other "
        "tables the lowest loss of a rate counts)",
    )
    sub.add_argument(
        "--n-nearest",
        type=int,
        default=NEAREST,
        metavar="N",
        help="fit the N rates nearest to the best (%(default)s)",
    )

    sub = add("report", commands.report, "write report.html, fits.json and figures/*.png and *.pdf")
    add_curves(sub)
    add_noise(sub)
    sub.add_argument("--baseline", help="the model that compute multipliers compare with (dense)")
    add_asymptote(sub)
    sub.add_argument("--title", help="of the page")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
