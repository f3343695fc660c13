"""The cost of each way to choose adapters at run time."""

from functools import partial
from pathlib import Path

from analysis.adapters import Libraries, compare_libraries, has_comparison
from analysis.command import Options, Output
from analysis.compare.question import Question, answered, typed
from analysis.figures.adapters import draw_libraries

_OF_TABLES = (
    "column", "unit", "budgets", "budget_tolerance", "where", "flops", "series", "separator",
)  # fmt: skip


def _read(options: Options) -> Libraries:
    path: Path = options.path
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; name one with comparisons")
    return compare_libraries(path, **typed(options, compare_libraries))


def _compute(options: Options, found: Libraries) -> Output:
    return answered(options, found, figures={"adapters": partial(draw_libraries, found)})


QUESTION = Question(
    help="ways to choose adapters at run time, by files of experiments.library compare",
    order=0,
    of_source=False,
    suits=lambda options, _: has_comparison(options.path),
    read=_read,
    compute=_compute,
    by_model=True,
    unused=_OF_TABLES,
    reads="comparisons of adapters, and no table",
)
