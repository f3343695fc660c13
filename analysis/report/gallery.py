"""Draws a report's figures: light and dark for its page, PNG and PDF for papers."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from analysis import figures
from analysis.report.page import Block, Drawing, Text


def file_label(model: str) -> str:
    """A model's or series' name as part of a file's."""
    return "".join(c if c.isalnum() else "_" for c in model)


class Gallery:
    """Draws each figure light and dark for the page, and light as PNG and PDF for papers."""

    def __init__(self, folder: Path, models: Iterable[str]) -> None:
        self._folder = folder
        self._models = [str(model) for model in models]
        self.written: list[Path] = []

    def draw(self, name: str, caption: str, make: Callable[[], Figure]) -> Block:
        """The figure, or what it lacks: a figure never keeps the numbers from being read."""
        images = {}
        for dark in (False, True):
            with figures.style(dark=dark, models=self._models):
                try:
                    figure = make()
                except ValueError as error:
                    return Text(text=f"No figure of {name}: {error}.")
                buffer = io.BytesIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None})
                images[dark] = buffer.getvalue()
                if not dark:
                    for suffix in ("png", "pdf"):
                        path = self._folder / f"{name}.{suffix}"
                        figure.savefig(path, dpi=200)
                        self.written.append(path)
                plt.close(figure)
        return Drawing(name=name, caption=caption, light=images[False], dark=images[True])
