"""Sweep's page as one file of HTML: what `status` says, and the curves of its runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.records.record import CUT_SHORT
from experiments.sweep.manifest import FLOPS, Entry
from experiments.sweep.page.data import PageData
from experiments.sweep.search_table import CellState, SearchTable, search_tables
from experiments.sweep.states import STATES, PointState, SweepState
from experiments.sweep.status_table import find_pace, model_rows, speed_text
from experiments.system.page.shell import Part, document, environment, resource
from experiments.system.plain_text import printable, shortened
from experiments.system.text_table import count, duration

_ROWS = 1000  # of the table
_LONGEST = 400  # characters of a cell
# Of the table: what goes on, then what asks for attention
_FIRST = ("running", "failed", "damaged", "killed", "interrupted", "held", "queued")
_ORDER = (*_FIRST, *(state for state in STATES if state not in _FIRST))


class SweepPage:
    """Makes the page of one sweep, as often as it is asked to."""

    def __init__(self, sweep_dir: Path, name: str) -> None:
        self.name, self._data = printable(name), PageData(sweep_dir)

    def render(
        self,
        sweep: SweepState,
        cells: Sequence[CellState] = (),
        notes: Sequence[str] = (),
        *,
        every: float | None = None,
    ) -> str:
        """HTML. notes: besides the sweep's. every: seconds after which it is loaded again; None:
        nobody writes it again.
        """
        shown = _shown(sweep, cells, [*sweep.notes, *notes])
        macros = _macros()
        figures = [("Loss against size", "isoflop"), ("Loss curves", "curves")]
        is_of_language = sweep.unit == FLOPS  # other apps' runs have no size and no such curve
        sections = [("Where it stands", "stand"), *(figures if is_of_language else ())]
        sections += [("Search", "search")] * bool(cells) + [("Points", "points")]
        parts = [
            Part(title=title, anchor=macro, body=Markup(getattr(macros, macro)(shown)))
            for title, macro in sections
        ]
        now = datetime.now(UTC)
        again = "" if every is None else f", and again every {duration(every)}"
        return document(
            title=f"Sweep {self.name}",
            subtitle=shown["sentence"],
            generated=f"Written {now:%Y-%m-%d %H:%M:%S} UTC{again}",
            parts=parts,
            styles=[_resource("status.css")],
            script=_resource("status.js"),
            data={
                **self._data.read(sweep),
                "every": every,
                "written": round(now.timestamp()),
            },
            refresh=every,
        )


def _shown(sweep: SweepState, cells: Sequence[CellState], notes: Sequence[str]) -> dict[str, Any]:
    """Values of the templates."""
    states, pace = Counter(p.state for p in sweep.points), find_pace(sweep.points)
    n_points, n_done = len(sweep.points), states["done"]
    share = pace.done / pace.planned if pace.planned else 0.0
    left = "" if pace.seconds_left is None else f"about {duration(pace.seconds_left)}"
    tokens = sum(p.tokens_per_second or 0.0 for p in sweep.points)
    others = [f"{states[state]} {state}" for state in STATES[1:] if states[state]]
    sentence = ", ".join([f"{n_done} of {n_points} points done", *others])
    pairs = list(zip(sweep.points, sweep.entries, strict=True))
    pairs.sort(key=lambda pair: _ORDER.index(pair[0].state))
    rows = [_row(point, entry) for point, entry in pairs[:_ROWS]]
    return {
        "sentence": f"{sentence}; {left} left" if left else sentence,
        "states": [(state, states[state]) for state in STATES if states[state]],
        "tiles": [
            ("points done", f"{n_done:,} of {n_points:,}"),
            *([("time left", left)] if left else []),
            (f"of {_short(pace.planned)} {sweep.unit} done", f"{100 * share:.0f} %"),
            *([("speed", speed_text(pace.rate, sweep.unit))] if pace.rate else []),
            *([("tokens/s", count(tokens))] if tokens else []),
        ],
        "by_model": model_rows(sweep.points),
        "notes": [shortened(printable(note)) for note in notes],
        "search": [_plain(table) for table in search_tables(cells)],
        "rows": rows,
        "columns": [name for name in rows[0]["cells"] if any(row["cells"][name] for row in rows)],
        "n_more": max(0, n_points - _ROWS),
    }


def _row(point: PointState, entry: Entry) -> dict[str, Any]:
    """A line of the table of points."""
    loss = "held-out loss" if entry.unit == FLOPS else "value"
    logged = point.state in ("failed", "killed", *CUT_SHORT) and point.log is not None
    begins = entry.trunk is not None and point.state != "waiting"
    note = [
        f"from step {entry.first_step} of its trunk" if begins else "",
        point.detail,
        f"stopped {point.n_stops} times" if point.n_stops else "",
        f"job {point.job}" if point.job else "",
        f"log: {point.log}" if logged else "",
    ]
    return {
        "state": point.state,
        "label": _cell(point.label),
        "run_id": _cell(point.run_id),
        "share": point.step / point.n_steps if 0 < point.step < point.n_steps else None,
        "cells": {
            "steps": f"{point.step:,} of {point.n_steps:,}" if point.n_steps else f"{point.step:,}",
            loss: "" if point.loss is None else f"{point.loss:.4f}",
            "tokens/s": "" if point.tokens_per_second is None else count(point.tokens_per_second),
            "left": "" if point.seconds_left is None else duration(point.seconds_left),
            "note": _cell("; ".join(filter(None, note))),
        },
    }


def _short(flops: float) -> str:
    return f"{flops:.3g}".replace("e+", "e")


def _plain(table: SearchTable) -> SearchTable:
    rows = tuple(tuple(map(_cell, row)) for row in table.rows)
    notes = tuple(shortened(printable(note)) for note in table.notes)
    return replace(table, title=_cell(table.title), rows=rows, notes=notes)


def _cell(text: str) -> str:
    return shortened(printable(text), _LONGEST)


@cache
def _macros() -> Any:
    return environment(_resource).get_template("status.html").module


def _resource(name: str) -> str:
    return resource(name, "experiments.sweep.page")
