"""Cost of each way to choose adapters at run time."""

from functools import partial
from pathlib import Path

from analysis.adapters import Libraries, compare_libraries
from analysis.command import Command, Options, Output
from analysis.figures.adapters import draw_libraries


def _read(options: Options) -> Libraries:
    path: Path = options.path
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; name one with comparisons")
    return compare_libraries(path)


def _compute(_: Options, found: Libraries) -> Output:
    return Output.of(found, figures={"adapters": partial(draw_libraries, found)})


COMMAND = Command(
    help="compare ways to choose adapters at run time",
    read=_read,
    compute=_compute,
    by_model=True,
    unused=(
        "column",
        "unit",
        "budgets",
        "budget_tolerance",
        "where",
        "flops",
        "series",
        "separator",
    ),
    reads="comparisons of adapters, and no table",
)
