"""The command line of `python -m analysis`: every command with its options, by subject."""

import argparse
from collections.abc import Callable
from functools import partial

from analysis import commands, decisions
from analysis.arguments import (
    add_asymptote,
    add_choice,
    add_cluster,
    add_command,
    add_curves,
    add_noise,
)
from analysis.experts.compare import DEFAULT_FORMS, HOLD_OUT
from analysis.experts.fit import BACKBONE
from analysis.experts.forms import FORMS
from analysis.flatness import WITHIN
from analysis.isoflop.fit import X_NAMES
from analysis.multiplier.profile import SLOPES
from analysis.options import Parser
from analysis.planner import MIN_GAIN
from analysis.rates.cells import NEAREST
from analysis.rates.fit import HORIZONS, WIDTHS
from analysis.surfaces.compare import HELD_OUT
from analysis.surfaces.forms import SURFACES
from experiments.system.version import ShowVersion

_SIZES = [name for name in X_NAMES if name != "n_tokens"]
Add = Callable[[str, object, str], argparse.ArgumentParser]


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Of all commands."""
    parser = Parser(prog="python -m analysis", description=description)
    parser.add_argument("--version", action=ShowVersion)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = partial(add_command, subparsers)
    for group in (_fits, _comparisons, _decisions, _report):
        group(add)
    return parser


def _fits(add: Add) -> None:
    """Curves and laws."""
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


def _comparisons(add: Add) -> None:
    """Models and ways beside one another."""
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

    sub = add("forgetting", commands.forgetting, "compare ways to go on learning from a stream")
    sub.add_argument(
        "--learning",
        type=float,
        metavar="BITS",
        help="compare forgetting where each has learnt this much, in bits/byte (default: what most "
        "ways have learnt)",
    )
    sub.add_argument(
        "--baseline",
        metavar="WAY",
        help="the way that others are compared with there (default: full fine-tuning)",
    )


def _decisions(add: Add) -> None:
    """What to run next, and what it gains."""
    sub = add("plan", decisions.planned, "say what size, tokens and experts a budget should buy")
    sub.add_argument(
        "--budget", type=float, required=True, metavar="FLOPS", help="in training FLOPs"
    )
    add_curves(sub)
    add_choice(sub)
    sub.add_argument("--form", choices=list(FORMS), help="a law of experts, to plan their number")
    sub.add_argument("--size", help=f"the column that N is there ({BACKBONE})")
    sub.add_argument(
        "--min-gain",
        type=float,
        metavar="NATS",
        help=f"a doubling of the experts must gain this much ({MIN_GAIN})",
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
    sub.add_argument(
        "--used",
        metavar="PATH",
        help="a sweep or table whose differences are checked: how far each moves at best rates",
    )
    sub.add_argument("--baseline", help="check differences from this model alone (default: all)")


def _report(add: Add) -> None:
    """All of it on a page."""
    sub = add("report", commands.report, "write report.html, fits.json and figures/*.png and *.pdf")
    add_curves(sub)
    add_noise(sub)
    sub.add_argument("--baseline", help="the model that compute multipliers compare with (dense)")
    add_asymptote(sub)
    sub.add_argument("--title", help="of the page")
