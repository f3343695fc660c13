"""Gains on their domain of runs that started from weights, and losses on other text."""

from analysis.adaptation import GENERAL, columns_of_starts, compare_adaptations
from analysis.command import Options, load_runs
from analysis.compare.answer import by
from analysis.figures.adaptation import draw_adaptation
from analysis.options import pairs
from analysis.questions import Question


def _check(options: Options) -> None:
    if unit := pairs("unit", options.unit).get("loss"):
        raise ValueError(
            f"--table unit.loss={unit} is of one column, and adaptation compares losses of several "
            "texts, before and after: give all of them in nats/token"
        )


def _columns(options: Options) -> tuple[str, ...]:
    return columns_of_starts(options.general or GENERAL)


QUESTION = Question(
    help="ways to adapt a model to a domain: the gain there, and the change on other text",
    order=3,
    options=f"""
--general SET  the set that stands for other text (default: {GENERAL})
""",
    suits=lambda options, runs: set(_columns(options)) <= set(runs),
    check=_check,
    read=lambda options: load_runs(options, options.source, keep=_columns(options), by_cell=False),
    compute=by(compare_adaptations, adaptation=draw_adaptation),
    by_model=True,
)
