"""Draws a report's figures: SVG for its page, PNG and PDF for papers."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
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
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None})
            figure.set_layout_engine("none")  # as it is: laying it out takes half of the time
            for suffix in ("png", "pdf"):
                self.written.append(self._folder / f"{name}.{suffix}")
                figure.savefig(self.written[-1], dpi=_DPI)
            plt.close(figure)
            return Drawing(name=name, caption=caption, svg=buffer.getvalue(), dark=dict(dark))
