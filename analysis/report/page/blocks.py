"""What a page is made of. Every text is plain: the page escapes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.report.page.images import media_type

Format = str | Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Text:
    """Prose. Blank lines part paragraphs; other line breaks are spaces."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Code:
    """Lines to copy, as they are."""

    text: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Warnings:
    """What speaks against the numbers, each a status (e.g. a FitStatus) and a sentence."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure as SVG or PNG, once for each colour scheme. name is its anchor in the page.

    Backgrounds are best left transparent. Raises ValueError if the bytes are of another format.
    """

    name: str
    caption: str
    light: bytes
    dark: bytes

    def __post_init__(self) -> None:
        for scheme, image in (("light", self.light), ("dark", self.dark)):
            if media_type(image) is None:
                raise ValueError(
                    f"drawing {self.name!r}: {scheme}={image[:12]!r}... is neither SVG nor PNG; "
                    "save the figure as one of them"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class DataTable:
    """A frame, a row a row. The index is not shown: reset_index() it if it says something.

    units: column -> unit, below its name in the header. formats: column -> a format spec, e.g.
    ".2f", or a function of the value. Without one, a column of numbers has four significant
    digits, fewer if all of its values need fewer. Raises ValueError for columns that are not there.
    """

    frame: pd.DataFrame
    caption: str
    units: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, Format] = field(default_factory=dict)
    sortable: bool = True

    def __post_init__(self) -> None:
        columns = list(map(str, self.frame.columns))
        for what, names in (("units", self.units), ("formats", self.formats)):
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
    subtitle: str = ""
    sections: Sequence[Section]
    commands: Sequence[str]
    generated: str
