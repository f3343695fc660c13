"""Draws a report's figures: SVG for its page, PNG and PDF for papers."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis import figures
from analysis.report.page import Block, Drawing, Text

_DPI = 200  # of PNG


def file_label(model: str) -> str:
    """A model's or series' name as part of a file's."""
    return "".join(c if c.isalnum() else "_" for c in model)


class Gallery:
    """Draws each figure once: for both colour schemes of the page, and as PNG and PDF."""

    def __init__(self, folder: Path, models: Iterable[str]) -> None:
        self._folder = folder
        self._models = [str(model) for model in models]
        self.written: list[Path] = []

    def draw(self, name: str, caption: str, make: Callable[[], Figure]) -> Block:
        """The figure, or what it lacks: a figure never keeps the numbers from being read."""
        with figures.style(models=self._models) as dark:
            try:
                figure = make()
            except ValueError as error:
                return Text(text=f"No figure of {name}: {error}.")
            svg = self._save(figure, name)
            plt.close(figure)
            return Drawing(name=name, caption=caption, svg=svg, dark=dict(dark))

    def _save(self, figure: Figure, name: str) -> bytes:
        """Lays the figure out once; savefig would do so, and draw it twice, for each format."""
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        png, pdf = (self._folder / f"{name}.{suffix}" for suffix in ("png", "pdf"))
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
        FigureCanvasPdf(figure).print_pdf(pdf)
        figure.dpi = _DPI
        FigureCanvasAgg(figure).print_png(png)
        self.written += [png, pdf]
        return buffer.getvalue()
