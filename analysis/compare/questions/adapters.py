"""Cost of each way to choose adapters at run time."""

from pathlib import Path

from analysis.adapters import compare_libraries, has_comparison
from analysis.command import Options
from analysis.compare.answer import by
from analysis.figures.adapters import draw_libraries
from analysis.questions import Question

_OF_TABLES = (
    "column", "unit", "budgets", "budget_tolerance", "where", "flops", "series", "separator",
)  # fmt: skip


def _read(options: Options) -> Path:
    path: Path = options.path
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; name one with comparisons")
    return path


QUESTION = Question(
    help="ways to choose adapters at run time, by files of experiments.library compare",
    order=0,
    of_source=False,
    suits=lambda options, _: has_comparison(options.path),
    read=_read,
    compute=by(compare_libraries, adapters=draw_libraries),
    by_model=True,
    unused=_OF_TABLES,
    reads="comparisons of adapters, and no table",
)
