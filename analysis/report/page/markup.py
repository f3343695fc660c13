"""A page as HTML that holds its style, its script and its images, and asks for nothing else."""

import base64
import hashlib
import re
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import assert_never

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
from analysis.report.page.images import aspect, data_uri
from experiments.system.disk import write_text_atomically

_FILTERED_FROM = 11  # rows; a shorter table is read at a glance
_WIDE = 1.6  # width over height from which a phone scrolls a drawing instead of shrinking it


def write(page: Page, path: str | Path) -> None:
    """Writes the page whole or not at all; makes its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(Path(path), render(page))


def render(page: Page) -> str:
    """The whole HTML document."""
    names = _Names()
    sections = [*page.sections, *_commands(page)]
    anchors = [names.anchor(section.title) for section in sections]
    script = _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=escape(page.title),
        subtitle=f'<p class="subtitle">{escape(page.subtitle)}</p>' if page.subtitle else "",
        generated=escape(page.generated),
        contents="\n".join(
            f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
            for anchor, section in zip(anchors, sections, strict=True)
        ),
        sections="\n".join(
            _section(section, anchor, names)
            for anchor, section in zip(anchors, sections, strict=True)
        ),
        style=_resource("page.css") + "\n" + _resource("blocks.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


class _Names:
    """Gives anchors that are unique in the page; ids with a _ are the template's own."""

    def __init__(self) -> None:
        self._taken = {"", "content"}  # the latter is the template's

    def anchor(self, text: str) -> str:
        slug = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        name, n = slug, 1
        while name in self._taken:
            n += 1
            name = f"{slug}-{n}"
        self._taken.add(name)
        return name


def _commands(page: Page) -> list[Section]:
    if not page.commands:
        return []
    code = Code(text="\n".join(page.commands), caption="They make this page and its numbers.")
    return [Section(title="Commands", blocks=[code])]


def _section(section: Section, anchor: str, names: _Names) -> str:
    blocks = "\n".join(_block(block, names) for block in section.blocks)
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}_title">\n'
        f'<h2 id="{anchor}_title"><a href="#{anchor}">{escape(section.title)}</a></h2>\n'
        f"{blocks}\n</section>"
    )


def _block(block: Block, names: _Names) -> str:
    match block:
        case Text():
            return _text(block)
        case Code():
            return _code(block)
        case Warnings():
            return _warnings(block)
        case Drawing():
            return _drawing(block, names)
        case DataTable():
            return _table(block, names)
        case Checklist():
            return _checklist(block)
    assert_never(block)


def _text(block: Text) -> str:
    paragraphs = re.split(r"\n\s*\n", block.text.strip())
    return "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)


def _code(block: Code) -> str:
    caption = f"<figcaption>{escape(block.caption)}</figcaption>" if block.caption else ""
    label = escape(block.caption or "code")
    # The line break after <pre> is the one that HTML drops, so that the text may begin with one
    return (
        f'<figure class="code">{caption}<button type="button" class="copy" hidden>Copy</button>'
        f'<pre tabindex="0" role="region" aria-label="{label}">\n'
        f"<code>{escape(block.text)}</code></pre></figure>"
    )


def _warnings(block: Warnings) -> str:
    if not block.items:
        return '<p class="calm">nothing speaks against these numbers</p>'
    items = "\n".join(
        f'<li><span class="status">{escape(str(status))}</span> {escape(text)}</li>'
        for status, text in block.items
    )
    title = "<p>What speaks against these numbers</p>"
    return f'<aside class="warnings">\n{title}\n<ul>\n{items}\n</ul>\n</aside>'


def _drawing(block: Drawing, names: _Names) -> str:
    caption = escape(block.caption)
    box = '<div class="box">'
    if (aspect(block.light) or 1) > _WIDE:
        box = f'<div class="box wide" tabindex="0" role="group" aria-label="{caption}">'
    # Paper is light: a dark page is printed with the light drawing
    return (
        f'<figure class="drawing" id="{names.anchor(block.name)}">\n{box}<picture>'
        f'<source media="screen and (prefers-color-scheme: dark)" srcset="{data_uri(block.dark)}">'
        f'<img src="{data_uri(block.light)}" alt="{caption}"></picture></div>\n'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _table(block: DataTable, names: _Names) -> str:
    name = names.anchor(f"table {block.caption}"[:40])
    rows = body_rows(block)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    if not rows:
        body = f'<tr><td class="absent" colspan="{max(1, block.frame.shape[1])}">no rows</td></tr>'
    sortable = ' class="sortable"' if block.sortable and len(rows) > 1 else ""
    tools = (
        '<div class="tools" hidden><label>Filter <input type="search"></label>'
        '<output aria-live="polite"></output></div>\n'
    ) * (len(rows) >= _FILTERED_FROM)
    return (
        f'<figure class="table" id="{name}">\n'
        f'<figcaption id="{name}_caption">{escape(block.caption)}</figcaption>\n{tools}'
        f'<div class="box" tabindex="0" role="region" aria-labelledby="{name}_caption">\n'
        f'<table{sortable} aria-labelledby="{name}_caption">\n'
        f"<thead><tr>{''.join(head_cells(block))}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table></div></figure>"
    )


def _checklist(block: Checklist) -> str:
    items = "\n".join(_answer(*item) for item in block.items)
    return f'<dl class="checklist">\n{items}\n</dl>'


def _answer(topic: str, answer: str | None) -> str:
    shown = '<dd class="missing">not recorded</dd>'
    if answer and answer.strip():
        shown = f"<dd>{escape(answer)}</dd>"
    return f"<div><dt>{escape(topic)}</dt>{shown}</div>"


def _resource(name: str) -> str:
    return resources.files("analysis.report.page").joinpath(name).read_text(encoding="utf-8")
