"""A study as one self-contained page, with its figures as PNG and PDF and its fits as JSON."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from analysis.checklist import fill_checklist
from analysis.gallery import Gallery
from analysis.page import Checklist, Page, Section, Text, write
from analysis.provenance import Provenance
from analysis.report_sections import sections_of
from analysis.results import counted
from analysis.study import Study
from analysis.table import finished
from experiments.records import write_text_atomically


@dataclass(frozen=True, kw_only=True)
class Written:
    """The files of a report."""

    page: Path
    fits: Path
    table: Path
    figures: tuple[Path, ...]


def write_report(
    study: Study, provenance: Provenance, folder: Path, command: str, title: str
) -> Written:
    """Writes report.html, fits.json, table.csv and figures/*.png and *.pdf into a folder."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    gallery = Gallery(folder / "figures", dict.fromkeys(study.table["model"]))
    sections = sections_of(study, gallery)
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
        subtitle=", ".join(counted(n, what) for what, n in numbers.items()),
        sections=sections,
        commands=[*provenance.commands, command],
        generated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by expert-isoflops",
    )
    write(page, folder / "report.html")
    fits = json.dumps(study.to_dict(), indent=1, allow_nan=False)
    write_text_atomically(folder / "fits.json", fits + "\n")
    write_text_atomically(folder / "table.csv", study.table.to_csv(index=False))
    return Written(
        page=folder / "report.html",
        fits=folder / "fits.json",
        table=folder / "table.csv",
        figures=tuple(gallery.written),
    )
