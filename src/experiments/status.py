"""Where a sweep stands: `python -m experiments.status NAME [--watch] [--html PATH]`; without a
name, which sweeps there are.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.sweep.folders import sweep_argument, sweep_folder, sweep_folders
from experiments.sweep.search_table import CellState, is_over, read_all, search_lines, search_rows
from experiments.sweep.states import STATES, SweepState, read_sweep
from experiments.sweep.status_table import status_text, sweeps_text
from experiments.system.command import Parser, exit_codes
from experiments.system.disk import check_file, reached, write_text_atomically
from experiments.system.plain_text import printable, raw
from experiments.system.schemas import with_schema


def main() -> None:
    """Exit code 0, whatever the state; 2 if there is no such sweep."""
    parser = Parser(description=" ".join((__doc__ or "").split()))
    sweep_argument(parser, optional=True)
    parser.add_argument(
        "--state", help=f"only points in these states, separated by commas: {', '.join(STATES)}"
    )
    parser.add_argument("--all", action="store_true", help="all points, also of a large sweep")
    parser.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument(
        "--every", type=float, default=5.0, help="seconds between repeats (default 5)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: for each point, then for each cell of a search; without a "
        "name for each sweep (docs/json.md)",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="PATH",
        help="write the sweep's page there too: states, loss curves, loss against size; with "
        "--watch again and again, and a browser loads it again by itself",
    )
    options = parser.parse_args()
    with exit_codes():
        states = _states(options.state)
        if not options.every > 0:
            raise ValueError(f"--every {options.every:g} must be above 0 seconds")
        folder = None if options.sweep is None else sweep_folder(options)
        page = None if options.html is None else _Page(options.html, folder)
        while True:
            ended = False
            if folder is None:
                _list(options.results, options.json)
            else:
                sweep, cells, notes = read_all(folder)
                ended = is_over(sweep, cells)
                if page is not None:
                    every = options.every if options.watch and not ended else None
                    page.write(sweep, cells, notes, every)
                _show(folder, sweep, cells, [f"note: {note}" for note in notes], states, options)
            if not options.watch or ended:
                return
            try:
                time.sleep(options.every)
            except KeyboardInterrupt:
                return


def _states(text: str | None) -> tuple[str, ...]:
    """States of --state. Raises ValueError for an unknown one."""
    states = () if text is None else tuple(name.strip() for name in text.split(","))
    for name in states:
        if name not in STATES:
            raise ValueError(f"--state {name!r} is not one of {', '.join(STATES)}")
    return states


class _Page:
    """File of --html. Raises ValueError for one that is no page's, and as check_file does."""

    def __init__(self, path: Path, folder: Path | None) -> None:
        if folder is None:
            raise ValueError("--html is of one sweep; name it before")
        if path.suffix not in (".html", ".htm"):
            raise ValueError(f"--html {path}: a page's name ends in .html; name it so")
        check_file(path, "--html")
        from experiments.sweep.page.page import SweepPage  # a tenth of a second of imports

        self._path, self._page = reached(path.absolute()), SweepPage(folder, folder.name)

    def write(
        self,
        sweep: SweepState,
        cells: Sequence[CellState],
        notes: Sequence[str],
        every: float | None,
    ) -> None:
        text = self._page.render(sweep, cells, notes, every=every)
        write_text_atomically(self._path, text, then="or name another file")


def _show(
    folder: Path,
    sweep: SweepState,
    cells: Sequence[CellState],
    notes: Sequence[str],
    states: Sequence[str],
    options: argparse.Namespace,
) -> None:
    if options.json:
        for note in [*(f"note: {note}" for note in sweep.notes), *notes]:
            print(printable(note), file=sys.stderr)
        points = [p for p in sweep.points if not states or p.state in states]
        shown = [with_schema("status", vars(point)) for point in points]
        shown += [with_schema("status-cell", row) for row in search_rows(cells)]
        if shown:
            _print("\n".join(map(json.dumps, shown)))
        return
    on_terminal = sys.stdout.isatty()
    clear = "\033[H\033[2J" if options.watch and on_terminal else ""
    text = status_text(folder.name, sweep, states, shorten=on_terminal and not options.all)
    page = [] if options.html is None else [f"page: {options.html}"]
    search = "\n".join([*search_lines(cells), *notes, *page])
    _print("\n\n".join(filter(None, [text, search])), clear)


def _print(text: str, clear: str = "") -> None:
    """Prints, after what clears the screen, if anything does. Whoever has read enough of it, as
    `head` does, is no error.
    """
    try:
        print(clear, end="", file=raw(sys.stdout))
        print(printable(text, "\n"), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _list(results: Path, as_json: bool) -> None:
    sweeps: list[tuple[str, SweepState | str]] = []
    for folder in sweep_folders(results):
        name = str(folder.relative_to(results))
        try:
            sweeps.append((name, read_sweep(folder)))
        except ValueError as error:
            sweeps.append((name, str(error)))
    if not sweeps:
        raise ValueError(f"no sweep in {results}; --results names another folder")
    if not as_json:
        _print(sweeps_text(sweeps))
        return
    for name, sweep in sweeps:
        if isinstance(sweep, str):
            print(printable(f"note: {name}: {sweep}"), file=sys.stderr)
        else:
            n_done = sum(p.state == "done" for p in sweep.points)
            row = {"sweep": name, "n_points": len(sweep.points), "n_done": n_done}
            print(json.dumps(with_schema("status-sweep", row)))


if __name__ == "__main__":
    main()
