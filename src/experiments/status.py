"""Where a sweep stands: `python -m experiments.status NAME [--watch]`; without a name, which sweeps
there are.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.records.record import ENDED
from experiments.sweep.folders import sweep_argument, sweep_folder, sweep_folders
from experiments.sweep.search_table import CellState, read_cells, search_lines, search_rows
from experiments.sweep.states import STATES, SweepState, read_sweep
from experiments.sweep.status_table import status_text, sweeps_text
from experiments.system.command import Parser, exit_codes
from experiments.system.plain_text import printable, raw

_OVER = (*ENDED, "failed", "damaged")


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
        help="one JSON object a line, for each point; then for each cell of a search",
    )
    options = parser.parse_args()
    with exit_codes():
        states = _states(options.state)
        if not options.every > 0:
            raise ValueError(f"--every {options.every:g} must be above 0 seconds")
        folder = None if options.sweep is None else sweep_folder(options)
        while True:
            if folder is None:
                _list(options.results, options.json)
                ended = False
            else:
                sweep = read_sweep(folder)
                cells, note = _cells(folder)
                _show(folder, sweep, cells, note, states, options)
                ended = all(p.state in _OVER for p in sweep.points)
                ended = ended and all(cell.is_over for cell in cells)
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


def _cells(folder: Path) -> tuple[list[CellState], list[str]]:
    """Cells of a sweep's search, if it has one; and why they can't be read."""
    try:
        return read_cells(folder), []
    except ValueError as error:
        return [], [f"note: {error}"]


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
        points = [vars(p) for p in sweep.points if not states or p.state in states]
        shown = [*points, *search_rows(cells)]
        if shown:
            _print("\n".join(map(json.dumps, shown)))
        return
    on_terminal = sys.stdout.isatty()
    clear = "\033[H\033[2J" if options.watch and on_terminal else ""
    text = status_text(folder.name, sweep, states, shorten=on_terminal and not options.all)
    search = "\n".join([*search_lines(cells), *notes])
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
            print(json.dumps({"sweep": name, "n_points": len(sweep.points), "n_done": n_done}))


if __name__ == "__main__":
    main()
