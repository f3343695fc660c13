"""paper/: every table of a report as LaTeX, every figure as PDF, and a document of all of them."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure

from analysis import figures
from analysis.figures.layout import lay_out, one_scale
from analysis.figures.plot import Plot
from analysis.figures.style import Columns
from analysis.processes import mapping
from analysis.progress import Say, silent
from analysis.report.gallery import Draft, file_label
from analysis.report.page.blocks import DataTable
from analysis.report.paper.booktabs import escape, is_long, tabular
from experiments.system.disk import make_folder, write_text

COLUMNS = Columns()
_HEAD = r"""% Tables and figures of a report, by: {command}
% Take single ones with \input and \includegraphics; this document shows all of them.
\documentclass{{article}}
\usepackage[margin=0.75in]{{geometry}}
\usepackage{{booktabs,graphicx,longtable,pdflscape}}
\begin{{document}}
"""
_FITTED = r"\resizebox{\ifdim\width>\textwidth \textwidth\else\width\fi}{!}"


def write_paper(
    drafts: Sequence[Draft],
    folder: Path,
    models: Sequence[str],
    command: str,
    say: Say = silent,
    unit: str = "nats/token",
) -> None:
    """Writes tables/*.tex, figures/*.pdf and paper.tex into a folder that is there.

    Figures are one column wide (one panel) or two, of text of one size, without a title over the
    whole. Panels of one quantity have one scale. models: those that share colours in all figures.
    A figure that can't be drawn is left out; the page says why. A table of no rows is too.
    """
    for name in ("tables", "figures"):
        make_folder(folder / name)
    plots = [part for draft in drafts for part in draft.parts if isinstance(part, Plot)]
    drawn = set()
    with mapping(len(plots)) as each:
        made = each(partial(_draw, folder / "figures", models, unit), plots)
        for plot, is_drawn in zip(plots, made, strict=True):
            say(f"drawing for a paper: {plot.name}")
            drawn.update([plot.name] * is_drawn)
    lines = [_HEAD.format(command=" ".join(command.split()))]
    for draft in drafts:
        own: list[str] = []
        for name, table in _named(draft):
            write_text(folder / "tables" / f"{name}.tex", tabular(table))
            shown = rf"\input{{tables/{name}.tex}}"
            own += (
                _long(shown, table) if is_long(table) else _block(_FITTED + f"{{{shown}}}", table)
            )
        for part in draft.parts:
            if isinstance(part, Plot) and part.name in drawn:
                own += _block(rf"\includegraphics{{figures/{part.name}.pdf}}", part)
        if own:
            lines += [rf"\section*{{{escape(draft.title)}}}", *own]
    text = "\n".join([*lines, r"\end{document}", ""])
    write_text(folder / "paper.tex", text)


def _named(draft: Draft) -> Iterator[tuple[str, DataTable]]:
    tables = [part for part in draft.parts if isinstance(part, DataTable) and len(part.frame)]
    for i, table in enumerate(tables, 1):
        yield f"{file_label(draft.title).lower()}_{i}", table


def _block(shown: str, of: DataTable | Plot) -> list[str]:
    """A table or figure over its caption, on one page. No float: it would leave its section."""
    caption = rf"\par\smallskip\small {_sentence(of.caption)}"
    minipage = r"\begin{minipage}{\textwidth}\centering"
    return ["", r"\medskip\noindent" + minipage, shown, caption, r"\end{minipage}"]


def _long(shown: str, table: DataTable) -> list[str]:
    small = r"{\tiny\setlength{\tabcolsep}{2pt}"
    return ["", small + shown + "}", rf"\noindent\small {_sentence(table.caption)}"]


def _sentence(caption: str) -> str:
    return escape(caption).rstrip(".") + "."


def _draw(folder: Path, models: Sequence[str], unit: str, plot: Plot) -> bool:
    """Whether it could be drawn."""
    with figures.style(models=models, columns=COLUMNS):
        try:
            figure = plot.make()
        except ValueError:
            return False
        figures.relabel(figure, unit)
        _letter(figure)
        one_scale(figure.axes)
        lay_out(figure)
        figure.set_layout_engine("none")
        metadata = {"CreationDate": None}  # else a redrawn figure is another file
        FigureCanvasPdf(figure).print_pdf(folder / f"{plot.name}.pdf", metadata=metadata)
        plt.close(figure)
        return True


def _letter(figure: Figure) -> None:
    """Titles of panels become their labels: (a), (b), ... for a caption to name."""
    if len(figure.axes) < 2:
        return
    for letter, axis in zip("abcdefghijklmnopqrstuvwxyz", figure.axes, strict=False):
        title = axis.get_title() or axis.get_title(loc="left")
        axis.set_title("")
        if axis.get_legend() is None:  # one above the panel is in the label's place
            axis.set_title(f"({letter}) {title}".rstrip(), loc="left")
