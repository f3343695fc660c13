"""Blocks of a page. Every text is plain: the page escapes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from analysis.report.page.svg import parse

Format = str | Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Text:
    """Prose. Blank lines part paragraphs; other line breaks are spaces."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Code:
    """Lines to copy, as they are."""

    text: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Warning:
    """A warning: its subject, e.g. "dense at C=3e12", and what it says.

    shown_in: the drawing, by its name, or else the section, by its title, to look at.
    """

    of: str
    text: str
    shown_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Warnings that say the same of different things, under one line."""

    text: str
    warnings: Sequence[Warning]


@dataclass(frozen=True, kw_only=True)
class Warnings:
    """All that calls for care with the numbers: a folded line a cause, with its count."""

    causes: Sequence[Cause]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as SVG, drawn for a light page. name is its anchor in the page.

    dark: what a dark page has in place of each colour, #rrggbb -> #rrggbb; others stay.
    Raises ValueError if it is no SVG.
    """

    name: str
    caption: str
    svg: bytes
    dark: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parse(self.svg)
        except ValueError as error:
            raise ValueError(f"drawing {self.name!r}: {error}; save the figure as SVG") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class DataTable:
    """A frame, a row a row. The index is not shown: reset_index() it if it says something.

    units: column -> unit, below its name in the header. formats: column -> a format spec, e.g.
    ".2f", or a function of the value. Without one, a column of numbers has four significant
    digits, fewer if all of its values need fewer; an Estimate is shown with its interval, at the
    digits that this leaves. best: column -> "min" or "max", whose value is set in bold.
    Raises ValueError for columns that are not there.
    """

    frame: pd.DataFrame
    caption: str
    units: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, Format] = field(default_factory=dict)
    best: Mapping[str, Literal["min", "max"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = list(map(str, self.frame.columns))
        for what, names in (("units", self.units), ("formats", self.formats), ("best", self.best)):
            unknown = [name for name in names if name not in columns]
            if unknown:
                raise ValueError(
                    f"{what}: {unknown[0]!r} is not a column of {self.caption!r}; "
                    f"it has {', '.join(columns) or 'none'}"
                )


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """Topics and what is known of each. None, or a blank answer, reads "not recorded"."""

    items: Sequence[tuple[str, str | None]]


Block = Text | Code | Warnings | Drawing | DataTable | Checklist


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading, which the table of contents lists, and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """commands: what makes the page and its numbers, shown last; generated: when, from what."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    commands: Sequence[str]
    generated: str
