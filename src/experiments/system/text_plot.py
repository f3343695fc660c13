"""A curve as lines of plain text, for a terminal. Standard library only."""

import math
from collections.abc import Sequence

_MARK = "*"


def plotted(
    xs: Sequence[float],
    ys: Sequence[float],
    *,
    width: int = 60,
    height: int = 12,
    x_name: str = "",
) -> list[str]:
    """Lines of a curve: y from its lowest to its highest value, x in logarithms from its first to
    its last. Between two points the line is straight. xs: above 0, and rising.

    Raises ValueError for no point, or as many xs as ys are not.
    """
    if not xs or len(xs) != len(ys):
        raise ValueError(f"{len(xs)} xs and {len(ys)} ys; a curve has as many of both, and some")
    places = [math.log(x) for x in xs]
    low, high = min(ys), max(ys)
    start, span = places[0], (places[-1] - places[0]) or 1.0
    heights = [(y - low) / ((high - low) or 1.0) for y in ys]
    grid = [[" "] * width for _ in range(height)]
    rows = [round((1 - at) * (height - 1)) for at in heights]
    columns = [round((x - start) / span * (width - 1)) for x in places]
    for k, (column, row) in enumerate(zip(columns, rows)):
        grid[row][column] = _MARK
        for between in range(columns[k - 1] + 1, column) if k else ():
            share = (between - columns[k - 1]) / (column - columns[k - 1])
            grid[round(rows[k - 1] + share * (row - rows[k - 1]))][between] = _MARK
    names = [f"{value:.4g}" for value in (high, (high + low) / 2, low)]
    label = max(map(len, names))
    marks = {0: names[0], (height - 1) // 2: names[1], height - 1: names[2]}
    lines = [f"{marks.get(i, ''):>{label}} |{''.join(row)}".rstrip() for i, row in enumerate(grid)]
    first, last = f"{xs[0]:g}", f"{xs[-1]:g} {x_name}".rstrip()
    axis = first + last.rjust(max(len(last) + 1, width - len(first)))
    return [*lines, f"{'':>{label}} +{'-' * width}", f"{'':>{label}}  {axis}"]
