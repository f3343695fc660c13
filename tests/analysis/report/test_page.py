"""Page as a document: what is in it, what is escaped, and that it needs nothing else."""

import base64
import html
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.intervals import Estimate
from analysis.report.page.blocks import (
    Cause,
    Checklist,
    Code,
    DataTable,
    Drawing,
    Page,
    Section,
    Text,
    Warning,
    Warnings,
)
from analysis.report.page.markup import render

EVIL = "<script>alert('x')</script> & \"co\""
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def svg(inner, **attributes):
    given = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f'<svg xmlns="{SVG}" xmlns:xlink="{XLINK}"{given}>{inner}</svg>'.encode()


def drawing(inner, dark=(), **attributes):
    return Drawing(name="a", caption="A", svg=svg(inner, **attributes), dark=dict(dark))


class Outline(HTMLParser):
    """tags: (name, attributes) in order; text: all of it, entities resolved."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


def page_of(*blocks, **fields):
    sections = [Section(title="Runs", blocks=blocks)]
    given = {"title": "Demo", "subtitle": "", "sections": sections, "commands": [], "generated": ""}
    return Page(**(given | fields))


def cells(frame, **fields):
    """Shown texts of the frame's only column, and the attributes of its cells."""
    document = render(page_of(DataTable(frame=frame, caption="", **fields)))
    found = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?>(.*?)</td>", document)]
    return found, Outline(document).all("td")


def test_contents_and_anchors_lead_somewhere():
    sections = [Section(title=title, blocks=[]) for title in ("Fits", "Fits", "Fits title", "λ")]
    outline = Outline(render(page_of(sections=sections, commands=["make demo"])))
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    hrefs = {attrs["href"] for attrs in outline.all("a")}
    assert hrefs == {"#content", "#fits", "#fits-2", "#fits-title", "#part", "#commands"}
    assert {href[1:] for href in hrefs} <= set(ids)
    assert outline.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in outline.all(
        "meta"
    )


def test_everything_is_escaped():
    frame = pd.DataFrame({EVIL: [EVIL, EVIL + "a long name" * 5], "x": [1.0, 2.0]})
    blocks = [
        Text(text=EVIL),
        Code(text=EVIL, caption=EVIL),
        Warnings(causes=[Cause(text=EVIL, warnings=[Warning(of=EVIL, text=EVIL)])]),
        Checklist(items=[(EVIL, EVIL)]),
        Drawing(name=EVIL, caption=EVIL, svg=svg(f"<text>{html.escape(EVIL)}</text>")),
        DataTable(frame=frame, caption=EVIL, units={EVIL: EVIL}, formats={"x": lambda _: EVIL}),
    ]
    sections = [Section(title=EVIL, blocks=blocks)]
    document = render(
        Page(title=EVIL, subtitle=EVIL, sections=sections, commands=[EVIL], generated=EVIL)
    )
    outline = Outline(document)
    assert len(outline.all("script")) == 1
    assert outline.all("svg")[-1]["aria-label"] == EVIL
    # The page's title twice, its other texts, the section's title with two contents; the blocks
    assert outline.text.count(EVIL) == 2 + 3 + 3 + 17


def test_a_table_links_to_its_values_at_full_precision():
    frame = pd.DataFrame(
        {
            "series": ["=a, b", None],
            "budget": [1e18, 3e18],
            "a": [Estimate(1 / 3, 0.3, 0.4), Estimate(0.5, math.nan, math.nan)],
        }
    )
    document = render(page_of(DataTable(frame=frame, caption="Laws", formats={"budget": ".0e"})))
    (link,) = (attrs for attrs in Outline(document).all("a") if "download" in attrs)
    assert link["download"] == "table-laws.csv"
    head, _, text = link["href"].partition(",")
    assert head == "data:text/csv;charset=utf-8;base64"
    read = pd.read_csv(io.BytesIO(base64.b64decode(text)))
    assert read.columns.tolist() == ["series", "budget", "a", "a_lower", "a_upper"]
    assert read["series"].tolist()[0] == "'=a, b"  # no spreadsheet's formula
    assert read["a"].tolist() == [1 / 3, 0.5]
    assert read[["budget", "a_lower", "a_upper"]].iloc[0].tolist() == [1e18, 0.3, 0.4]
    assert read.iloc[1].isna().tolist() == [True, False, False, True, True]
    assert "download" not in render(page_of(DataTable(frame=frame.head(0), caption="None")))


def test_nothing_is_fetched():
    image = '<image xlink:href="data:image/png;base64,AA==" width="1"/>'
    document = render(page_of(drawing(image), Text(text="see https://arxiv.org")))
    outline = Outline(document)
    addresses = [
        attrs[key] for _, attrs in outline.tags for key in ("src", "srcset", "href") if key in attrs
    ]
    assert sorted(addresses)[-1] == "data:image/png;base64,AA=="
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not outline.all("link")
    assert "default-src 'none'" in document
    assert "url(" not in document


@pytest.mark.parametrize(
    "inner",
    [
        "<script>alert(1)</script>",
        "<foreignObject><p>x</p></foreignObject>",
        "<style>body { display: none }</style>",
        '<path onload="alert(1)" d="M 0 0"/>',
        '<a href="https://evil"><path d="M 0 0"/></a>',
        '<image href="https://evil/a.png"/>',
        '<use href="https://evil/a.svg#b"/>',
        '<path style="fill: url(https://evil); background: red" d="M 0 0"/>',
        '<g class="warnings" id="content"><path d="M 0 0"/></g>',
    ],
)
def test_a_drawing_brings_no_script_address_style_or_name(inner):
    document = render(page_of(drawing(inner)))
    figure = document[document.index('<figure class="drawing"') : document.index("</figure>")]
    for word in ("script", "evil", "alert", "display", "foreign", "red", "warnings", "content"):
        assert word not in figure


def test_a_drawing_keeps_its_shapes_and_shares_what_is_the_same():
    glyph = (
        '<defs><path id="{}" d="M 794 531 \nL 1825.0 531 \nL -3 4.126 \nz \nM 1 1 M 2 2"/></defs>'
    )
    letter = '<g style="fill: #1f2328" transform="translate(58.601334 1) scale(0.015625)">{}</g>'
    first = drawing(
        glyph.format("A") + letter.format('<use xlink:href="#A" x="0.123456"/>'),
        [("#1f2328", "#e6e8eb")],
    )
    second = drawing(
        letter.format('<use xlink:href="#B"/>') + glyph.format("B"),
        [("#1f2328", "#eeeeee")],
    )
    document = render(page_of(first, second))
    assert document.count('d="M794 531 1825 531-3 4.13zM1 1M2 2"') == 1
    assert document.count('<use href="#_0"') == 2
    assert '<use href="#_0" x="0.12"/>' in document
    assert document.count('transform="translate(58.6 1) scale(0.015625)"') == 2
    light, dark = re.findall(r":root\{(--v0:.*?)\}", document)
    assert (light, dark) == ("--v0:#1f2328;--v1:#1f2328;", "--v0:#e6e8eb;--v1:#eeeeee;")
    assert ".v0{fill:var(--v0)}" in document


def test_units_stand_in_the_header():
    frame = pd.DataFrame({"loss": [3.1], "budget": [1e18], "note": ["a"]})
    table = DataTable(frame=frame, caption="", units={"loss": "nats/token", "budget": "FLOPs"})
    head = re.findall("<th .*?</th>", render(page_of(table)))
    assert [re.findall('class="unit">(.*?)<', cell) for cell in head] == [
        ["nats/token"],
        ["FLOPs"],
        [],
    ]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([3.14159265, 2.5], ["3.142", "2.500"]),
        ([0.5, 1, 0.25], ["0.50", "1.0", "0.25"]),
        ([3e-4, 1e-2], ["3e-4", "1e-2"]),
        ([1e18, 1.2345678e19], ["1.000e18", "1.235e19"]),
        ([0.5, 2e-6, 0.0], ["0.5", "2e-6", "0"]),
        ([1.0, 123456.0], ["1", "123456"]),
        ([64, 7_123_456], ["6.400e1", "7.123e6"]),
        ([-12.345, np.inf, -np.inf], ["-12.35", "inf", "-inf"]),
        (pd.array([8, None], dtype="Int64"), ["8", "–"]),
        ([None, np.nan, "", "a"], ["–", "–", "–", "a"]),
        ([True, False], ["yes", "no"]),
    ],
)
def test_shown_values(values, shown):
    assert cells(pd.DataFrame({"x": values}))[0] == shown


def test_full_precision_is_in_the_cell():
    _, (a, b, c) = cells(pd.DataFrame({"x": [0.1 + 0.2, -np.inf, None]}))
    assert a["title"] == a["data-value"] == "0.30000000000000004"
    assert b["data-value"] == "-Infinity"
    assert "data-value" not in c
    shown, (n,) = cells(pd.DataFrame({"x": [0.25]}), formats={"x": ".1%"})
    assert (shown, n["title"]) == (["25.0%"], "0.25")


def test_no_rows_and_many_rows():
    assert cells(pd.DataFrame({"x": []}))[0] == ["no rows"]
    for n_rows, n_filters in ((10, 0), (11, 1)):
        frame = pd.DataFrame({"x": range(n_rows)})
        outline = Outline(render(page_of(DataTable(frame=frame, caption=""))))
        assert len(outline.all("input")) == n_filters


def test_warnings_and_gaps_are_evident():
    document = render(
        page_of(Warnings(causes=[]), Checklist(items=[("seed", None), ("lr", " "), ("d", "1")]))
    )
    assert "No warnings" in document
    assert document.count('<dd class="missing">not recorded</dd>') == 2
    assert "<dd>1</dd>" in document


def test_warnings_are_folded_counted_and_lead_to_their_figure():
    two = [
        Warning(of="dense", text="off by 0.2", shown_in="a"),
        Warning(of="peer", text="off by 0.3", shown_in="Runs"),
    ]
    one = [Warning(of="moe", text="not causal", shown_in="nowhere")]
    block = Warnings(
        causes=[Cause(text="off by 0.2 to 0.3", warnings=two), Cause(text="b", warnings=one)]
    )
    document = render(page_of(block, drawing("")))
    assert "<p>3 warnings of 2 kinds</p>" in document
    assert '<summary><span class="count">2</span> off by 0.2 to 0.3</summary>' in document
    assert '<li><a href="#a">dense</a>: off by 0.2</li>' in document
    assert '<li><a href="#runs">peer</a>: off by 0.3</li>' in document
    assert "<li>moe: not causal</li>" in document
    assert document.count("<details>") == 2


def test_an_estimate_has_its_interval_and_sorts_by_its_value():
    values = [Estimate(1.2423, 1.1072, 1.3921), Estimate(np.nan, np.nan, np.nan), 1.0]
    shown, attrs = cells(pd.DataFrame({"x": values}))
    assert shown == ["1.24 (1.11 to 1.39)", "–", "1"]
    assert [a.get("data-value") for a in attrs] == ["1.2423", None, "1.0"]
    assert attrs[0]["title"] == "1.2423 (1.1072 to 1.3921)"


def test_the_best_of_a_column_is_bold():
    frame = pd.DataFrame({"x": [2.0, 1.0, None], "y": [Estimate(2, 1, 3), Estimate(5, 4, 6), None]})
    document = render(page_of(DataTable(frame=frame, caption="", best={"x": "min", "y": "max"})))
    assert re.findall("<strong>(.*?)</strong>", document) == ["1", "5.0 (4.0 to 6.0)"]


def test_bad_blocks_are_refused():
    frame = pd.DataFrame({"loss": [1.0]})
    with pytest.raises(ValueError, match="units: 'los' is not a column of 'Runs'; it has loss"):
        DataTable(frame=frame, caption="Runs", units={"los": "nats"})
    for wrong, why in ((b"GIF89a", "syntax error"), (b"<p/>", "is no SVG but 'p'")):
        with pytest.raises(ValueError, match=f"drawing 'a': .*{why}.*; save the figure as SVG"):
            Drawing(name="a", caption="A", svg=wrong)
