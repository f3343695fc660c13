"""A study as one self-contained page, with its figures as PNG and PDF and its fits as JSON."""

import json
from datetime import UTC, datetime
from pathlib import Path

from analysis.fitting.text import pluralize
from analysis.progress import Say, silent
from analysis.report.checklist import fill_checklist
from analysis.report.gallery import draw_all
from analysis.report.in_unit import sections_in
from analysis.report.page.blocks import Checklist, Page, Section, Text
from analysis.report.page.markup import render
from analysis.report.paper.write import write_paper
from analysis.report.provenance import Provenance
from analysis.report.sections import list_sections
from analysis.staging import staged
from analysis.study import Study
from analysis.table.load import finished
from analysis.table.units import loss_unit
from experiments.system.csv_text import to_csv
from experiments.system.disk import make_folder, write_text
from experiments.system.schemas import with_schema


def write_report(
    study: Study,
    provenance: Provenance,
    folder: Path,
    command: str,
    title: str,
    *,
    paper: bool = False,
    say: Say = silent,
) -> int:
    """Writes report.html, fits.json, table.csv and figures/*.png and *.pdf into a folder: all of
    them or none. Returns the number of the figures' files.

    paper: paper/ too, with the tables as LaTeX and the figures in the widths of columns.
    say: gets the name of each figure. Raises WriteError for what the disk denies.
    """
    with staged(folder) as new:
        _write_files(study, provenance, new, command, title, paper, say)
        return len(list((new / "figures").iterdir()))


def _write_files(
    study: Study,
    provenance: Provenance,
    folder: Path,
    command: str,
    title: str,
    paper: bool,
    say: Say,
) -> None:
    drawn = folder / "figures"
    make_folder(drawn)
    models = list(map(str, dict.fromkeys(study.table["model"])))
    unit = loss_unit(study.table)
    drafts = list_sections(study)
    sections = draw_all(drafts, drawn, models, say, unit)
    if paper:
        make_folder(folder / "paper")
        write_paper(drafts, folder / "paper", models, command, say, unit)
    topics = fill_checklist(
        study.table,
        provenance,
        isoflop=study.isoflop,
        parametric=list(study.parametric.values()),
        experts=list(study.experts.values()),
        hold_out=study.hold_out,
    )
    intro = Text(text="What a reader needs to judge these laws, after the (Mis)Fitting survey.")
    sections.append(Section(title="Checklist", blocks=[intro, Checklist(items=topics)]))
    done = finished(study.table)
    numbers = {
        "finished run": len(done),
        "model": done["model"].nunique(),
        "budget": done["budget"].nunique(),
    }
    page = Page(
        title=title,
        subtitle=", ".join(pluralize(n, what) for what, n in numbers.items()),
        sections=sections_in(unit, sections),
        commands=[*provenance.commands, command],
        generated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by expert-isoflops",
    )
    write_text(folder / "report.html", render(page))
    fits = json.dumps(with_schema("report", study.to_dict()), indent=1, allow_nan=False)
    write_text(folder / "fits.json", fits + "\n")
    write_text(folder / "table.csv", to_csv(study.table))
