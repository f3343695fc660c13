"""A command of `python -m analysis`: what it reads and computes, and the path that all share.

The path reads, computes, writes NAME.json and the figures, and prints.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.experts.runs import BACKBONE
from analysis.fitting.plain import plain
from analysis.fitting.results import Result
from analysis.fitting.text import join_first
from analysis.options import choose_series, pairs, parse_budgets
from analysis.staging import check_folder, committed_otherwise, staged
from analysis.table.load import finished, load_table
from analysis.table.sources import Source
from analysis.table.trunks import find_trunks, trunks_note
from analysis.table.units import PER_TOKEN, in_unit, loss_unit
from analysis.table.warned import say_once, warnings_of_table
from experiments.records.record import RunRecord
from experiments.system.csv_text import to_csv
from experiments.system.disk import followed, reached, rename, write_text
from experiments.system.schemas import with_schema

Options = argparse.Namespace
T = TypeVar("T")
_SAME = 3  # runs of one loss are no accident


@dataclass(frozen=True, kw_only=True)
class Output:
    """A command's result. text: to print; values: for --json, and for NAME.json.

    figures: the name of a file -> draws it; tables: the name of a .csv -> what is in it. form: of
    the values, where some options give them other keys; a part of the schema's name.
    """

    values: Mapping[str, Any]
    text: str
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    form: str = ""

    @classmethod
    def of(cls, found: Result, said: Sequence[str] = (), **others: Any) -> "Output":
        return cls(values=found.to_dict(), text="\n".join([*said, found.summary()]), **others)


@dataclass(frozen=True, kw_only=True)
class Described:
    """Words of a command for --help; the file in commands/ that has it as COMMAND names it.

    description: more than the first line of the file's docstring. options: its own, as
    options.declare reads them; groups: more of them, each under "TITLE: a line on it".
    """

    options: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def choose(self, options: Options) -> None:
        """Puts in its place, as options.chosen, the question that was asked of it: here itself.
        Raises ValueError where none was.
        """


@dataclass(frozen=True, kw_only=True)
class Command(Described, Generic[T]):
    """A command that computes.

    read: the table, or other things to compute from. compute: the output, of what was read. check:
    raises ValueError for options that don't go together, before anything is read. writes: whether
    NAME.json and the figures are written. by_model: it compares models, so --series is refused.
    unused: options of all commands that change nothing here, and are refused; reads: what it takes
    instead. What is read may have the table beside other things, as `table`. version: of its JSON
    (system/schemas.py).
    """

    read: Callable[[Options], T]
    compute: Callable[[Options, T], Output]
    check: Callable[[Options], None] = lambda _: None
    writes: bool = True
    by_model: bool = False
    unused: Sequence[str] = ()
    reads: str = ""
    version: int = 1

    def run(self, options: Options) -> None:
        """Raises WriteError before anything is computed, if nothing can be written."""
        found = self.read(options)
        folder = choose_folder(options) if self.writes else None
        output = self.compute(options, found)
        table = found if isinstance(found, pd.DataFrame) else getattr(found, "table", None)
        unit = loss_unit(table) if isinstance(table, pd.DataFrame) else PER_TOKEN
        paths = [] if folder is None else _write(output, folder, options, unit)
        if options.json:
            print(_as_json(output, options))
            return
        print(in_unit(output.text.rstrip("\n"), unit))
        if paths:
            print("\n" + "\n".join(paths))


def choose_folder(options: Options) -> Path:
    """Where results go: --out, else the sweep's folder, else NAME-analysis beside the file.

    Raises WriteError if they can't.
    """
    path: Path = reached(options.path)
    folder = path if path.is_dir() else path.with_name(f"{path.stem}-analysis")
    folder = followed(options.out) if options.out else folder
    check_folder(folder)
    return folder


def _write(output: Output, folder: Path, options: Options, unit: str) -> list[str]:
    """All files, or none; what each is and where. unit: of losses, in the figures.

    Without --out, committed results that say otherwise stay, and the new ones are beside them.
    """
    notes = []
    with staged(folder) as new, figures.style():
        for label, table in output.tables.items():
            write_text(new / f"{label}.csv", to_csv(table))
        write_text(new / f"{options.command}.json", _as_json(output, options) + "\n")
        for label, draw in output.figures.items():
            figure = draw()
            figures.relabel(figure, unit)
            figure.savefig(new / f"{label}.png", dpi=160)
            plt.close(figure)
        kept = [] if options.out else committed_otherwise(new, folder)
        if kept:
            notes = [
                f"note: committed results in {folder} say otherwise and stay ({join_first(kept)}): "
                f"the new ones are beside them; --out {folder} replaces the committed ones"
            ]
            folder = folder.with_name(f"{folder.name}-analysis")
            with staged(folder) as beside:
                for path in new.iterdir():
                    rename(path, beside / path.name)
    tables = [f"table: {folder / label}.csv" for label in output.tables]
    drawn = [f"figure: {folder / label}.png" for label in output.figures]
    return [*notes, *tables, f"fits: {folder / options.command}.json", *drawn]


def _as_json(output: Output, options: Options) -> str:
    name = "-".join(filter(None, (options.command, output.form)))
    values = with_schema(name, plain(output.values), options.chosen.version)
    return json.dumps(values, indent=1, allow_nan=False)


def load_runs(
    options: Options,
    source: Source | None = None,
    keep: Sequence[str] = (),
    needs: Sequence[str] = (),
    by_cell: bool = True,
    by_trunk: bool = True,
) -> pd.DataFrame:
    """Checked table of the path, or of what was read from it. keep and needs: load_table's.
    by_cell: one loss of each cell counts, so runs that merge are a warning. by_trunk: a bootstrap
    draws whole trunks where --cluster names no other column.

    Notes are printed unless JSON was asked for, what was left out and warnings always.
    """
    where = {name: value.split(",") for name, value in pairs("where", options.where).items()}
    cluster = getattr(options, "cluster", None)
    table = load_table(
        source or options.path,
        columns=pairs("column", options.column) or None,
        flops=options.flops,
        where=where,
        keep=[*keep, *([cluster] if cluster else [])],
        units=pairs("unit", options.unit),
        series=choose_series(options),
        separator=options.separator,
        budgets=parse_budgets(options),
        budget_tolerance=options.budget_tolerance,
        needs=needs,
    )
    warnings = [*warnings_of_table(table, by_cell)]
    notes = [note for note in table.attrs.get("notes", ()) if note not in warnings]
    if "cluster" in options and not cluster:
        drawn = trunks_note(table) if by_trunk else None
        shared = find_trunks(table) if drawn is None else None
        notes, warnings = [*filter(None, [drawn]), *notes], [*warnings, *filter(None, [shared])]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    say_once(table)
    for note in () if options.json else notes:
        print(f"note: {note}")
    for flag in ("cluster", "size"):
        name = getattr(options, flag, None)
        if name not in (None, "", BACKBONE) and name not in table:
            found = ", ".join(map(str, table))
            raise ValueError(f"--{flag} {name} is no column; found {found}")
    losses = finished(table)["loss"]
    if len(losses) >= _SAME and losses.nunique() == 1:
        raise ValueError(f"all {len(losses)} losses are {losses.iloc[0]:g}: is this their column?")
    return table


def load_records(source: Source, table: pd.DataFrame) -> list[RunRecord]:
    kept = set(table["run_id"].dropna())
    return [record for record in source.records if record.run_id in kept]
