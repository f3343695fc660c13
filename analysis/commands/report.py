"""Write report.html, fits.json and figures/*.png and *.pdf."""

import pandas as pd

from analysis.arguments import ASYMPTOTE, CURVES, NOISE
from analysis.command import Command, Options, Output, choose_folder, load_records, load_runs
from analysis.progress import Steps
from analysis.report.provenance import find_provenance
from analysis.report.write import write_report
from analysis.study import analyse, check_choices
from analysis.table.sources import Source, read_source


def _read(options: Options) -> tuple[Source, pd.DataFrame]:
    source = read_source(options.path, options.separator)
    return source, load_runs(options, source)


def _compute(options: Options, read: tuple[Source, pd.DataFrame]) -> Output:
    source, table = read
    folder = choose_folder(options)
    check_choices(table, options.baseline, options.asymptote)
    steps = Steps()
    steps(f"{len(table)} runs of {options.path}")
    study = analyse(
        table,
        options.x,
        options.method,
        options.n_nearest,
        noise=options.noise,
        baseline=options.baseline or "dense",
        asymptote=options.asymptote,
        records=load_records(source, table),
        say=steps,
    )
    title = options.title or f"Experts at equal compute: {options.path.resolve().stem}"
    provenance = find_provenance(source.records, table["run_id"].dropna())
    n_files = write_report(
        study, provenance, folder, options.typed, title, paper=options.paper, say=steps
    )
    steps.close()
    lines = [
        *(f"not fitted: {what}: {why}" for what, why in study.missing),
        f"report: {folder / 'report.html'}",
        f"fits: {folder / 'fits.json'}",
        f"table: {folder / 'table.csv'}",
        f"figures: {n_files} files in {folder / 'figures'}",
        *([f"paper: {folder / 'paper' / 'paper.tex'}"] if options.paper else []),
    ]
    return Output(values=study.to_dict(), text="\n".join(lines))


COMMAND = Command(
    options=f"""{CURVES}{NOISE}
--baseline BASELINE  the model that compute multipliers compare with (dense)
{ASYMPTOTE}
--title TITLE  of the page
--paper  write paper/ too: tables for LaTeX (booktabs), figures one or two columns wide, 8 pt
""",
    read=_read,
    compute=_compute,
    writes=False,  # its page has files of its own
)
