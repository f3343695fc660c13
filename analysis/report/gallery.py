"""Draws a report's figures: SVG for its page, PNG and PDF for papers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis import figures
from analysis.figures.layout import lay_out, settle
from analysis.figures.plot import Plot
from analysis.processes import mapping
from analysis.progress import Say, silent
from analysis.report.page.blocks import Block, Drawing, Section, Text
from analysis.table.units import PER_TOKEN

_DPI = 200  # of PNG


Part = Block | Plot


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A section whose figures are still to be drawn."""

    title: str
    parts: Sequence[Part]


def file_label(model: str) -> str:
    """A model's or series' name as part of a file's."""
    return "".join(c if c.isalnum() else "_" for c in model)


def draw_all(
    drafts: Sequence[Draft],
    folder: Path,
    models: Sequence[str],
    say: Say = silent,
    unit: str = PER_TOKEN,
) -> list[Section]:
    """Sections, each figure drawn once: for both colour schemes of the page, as PNG and PDF.

    On several cores if they are free to use. models: those that share colours in all figures.
    say: gets the name of each figure. unit: of the losses.
    """
    plots = [part for draft in drafts for part in draft.parts if isinstance(part, Plot)]
    with mapping(len(plots)) as each:
        drawn = iter(each(partial(_draw, folder, models, unit), plots))

        def block(part: Part) -> Block:
            if not isinstance(part, Plot):
                return part
            say(f"drawing: {part.name}")
            return next(drawn)

        return [Section(title=d.title, blocks=[block(part) for part in d.parts]) for d in drafts]


def _draw(folder: Path, models: Sequence[str], unit: str, plot: Plot) -> Block:
    """Figure, or what it lacks: a figure never keeps the numbers from being read."""
    try:
        with figures.style(models=models) as dark:
            try:
                figure = plot.make()
            except ValueError as error:
                return Text(text=f"No figure of {plot.name}: {error}.")
            figures.relabel(figure, unit)
            svg = _save(figure, folder / plot.name)
            plt.close(figure)
            return Drawing(name=plot.name, caption=plot.caption, svg=svg, dark=dict(dark))
    except Exception as error:
        error.add_note(f"while drawing the figure {plot.name}")
        raise


def _save(figure: Figure, path: Path) -> bytes:
    """Lays the figure out once; savefig would do so, and draw it twice, for each format."""
    lay_out(figure)
    settle(figure)
    figure.set_layout_engine("none")
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    FigureCanvasPdf(figure).print_pdf(path.with_name(f"{path.name}.pdf"))
    figure.dpi = _DPI
    FigureCanvasAgg(figure).print_png(path.with_name(f"{path.name}.png"))
    return buffer.getvalue()
