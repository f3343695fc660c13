"""A page as HTML that holds its style, its script and its drawings, and asks for nothing else."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, assert_never

from markupsafe import Markup

from analysis.report.page.blocks import (
    Block,
    Checklist,
    Code,
    DataTable,
    Drawing,
    Page,
    Section,
    Text,
    Warnings,
)
from analysis.report.page.cells import body_rows, head_cells
from analysis.report.page.csv_link import csv_address
from analysis.report.page.svg import Svgs, aspect
from experiments.system.page.shell import Part, document, environment, resource

_FILTERED_FROM = 11  # rows; a shorter table is read at a glance
_WIDE = 1.6  # width over height from which a phone scrolls a drawing instead of shrinking it
_View = tuple[str, Mapping[str, Any]]  # the macro of blocks.html and what it shows


def render(page: Page) -> str:
    sections = [*page.sections, *_commands(page)]
    anchors, svgs = _Anchors(sections), Svgs()
    macros = _macros()
    parts = [
        Part(
            title=section.title,
            anchor=anchors.of_section[i],
            body=Markup("\n").join(
                _drawn(macros, _view(block, anchors.of_block.get((i, k), ""), anchors, svgs))
                for k, block in enumerate(section.blocks)
            ),
        )
        for i, section in enumerate(sections)
    ]
    return document(
        title=page.title,
        subtitle=page.subtitle,
        generated=page.generated,
        parts=parts,
        styles=(_resource("blocks.css"), svgs.css()),
        definitions=svgs.definitions(),
        script=_resource("page.js"),
    )


def _drawn(macros: Any, view: _View) -> Markup:
    kind, shown = view
    return Markup(getattr(macros, kind)(shown))


class _Anchors:
    """Names that are unique in the page, by what has them; ids with a _ are the template's own."""

    def __init__(self, sections: list[Section]) -> None:
        self._taken = {"", "content"}  # the latter is the template's
        self.of_section = [self._name(section.title) for section in sections]
        self.of_block: dict[tuple[int, int], str] = {}  # section and place in it
        self._targets: dict[str, str] = {}
        for i, section in enumerate(sections):
            self._targets.setdefault(section.title, self.of_section[i])
            for k, block in enumerate(section.blocks):
                if isinstance(block, DataTable):
                    self.of_block[i, k] = self._name(f"table {block.caption}"[:40])
                elif isinstance(block, Drawing):
                    self.of_block[i, k] = self._targets[block.name] = self._name(block.name)

    def target(self, name: str) -> str | None:
        """Link's target: of a drawing by its name, or of a section by its title."""
        return self._targets.get(name)

    def _name(self, text: str) -> str:
        slug = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        name, n = slug, 1
        while name in self._taken:
            n += 1
            name = f"{slug}-{n}"
        self._taken.add(name)
        return name


def _commands(page: Page) -> Iterator[Section]:
    if page.commands:
        code = Code(text="\n".join(page.commands), caption="They make this page and its numbers.")
        yield Section(title="Commands", blocks=[code])


def _view(block: Block, anchor: str, anchors: _Anchors, svgs: Svgs) -> _View:
    match block:
        case Text():
            return "text", {"paragraphs": re.split(r"\n\s*\n", block.text.strip())}
        case Code():
            return "code", {"text": block.text, "caption": block.caption}
        case Warnings():
            return "warnings", _warnings(block, anchors)
        case Drawing():
            return "drawing", {
                "anchor": anchor,
                "caption": block.caption,
                "wide": (aspect(block.svg) or 1) > _WIDE,
                "svg": Markup(svgs.inline(block.svg, block.dark, block.caption)),
            }
        case DataTable():
            return "table", _table(block, anchor)
        case Checklist():
            return "checklist", {"topics": block.items}
    assert_never(block)


def _warnings(block: Warnings, anchors: _Anchors) -> Mapping[str, Any]:
    causes = [
        {
            "text": cause.text,
            "warnings": [
                {"of": w.of, "text": w.text, "anchor": anchors.target(w.shown_in)}
                for w in cause.warnings
            ],
        }
        for cause in block.causes
    ]
    n, n_causes = sum(len(cause.warnings) for cause in block.causes), len(causes)
    several = f" of {n_causes} {'kind' if n_causes == 1 else 'kinds'}" if n > 1 else ""
    return {"causes": causes, "title": f"{n} warning{'' if n == 1 else 's'}{several}"}


def _table(block: DataTable, anchor: str) -> Mapping[str, Any]:
    rows = body_rows(block)
    return {
        "anchor": anchor,
        "caption": block.caption,
        "heads": head_cells(block),
        "rows": rows,
        "sortable": len(rows) > 1,
        "csv": csv_address(block) if rows else "",
        "filtered": len(rows) >= _FILTERED_FROM,
    }


@cache
def _macros() -> Any:
    return environment(_resource).get_template("blocks.html").module


def _resource(name: str) -> str:
    return resource(name, "analysis.report.page")
