"""The page as a document: what is in it, what is escaped, and that it needs nothing else."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image as mpl_image
import numpy as np
import pandas as pd
import pytest

from analysis.report.page import (
    Checklist,
    Code,
    DataTable,
    Drawing,
    Page,
    Section,
    Text,
    Warnings,
    render,
    write,
)

EVIL = "<script>alert('x')</script> & \"co\""
PNG = io.BytesIO()
mpl_image.imsave(PNG, np.zeros((30, 60, 4)), format="png")
SHAPES = [("desktop", 1280, 900), ("phone", 390, 844)]


def svg(text):
    return f'<svg xmlns="http://www.w3.org/2000/svg"><text y="50">{text}</text></svg>'.encode()


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
        if tag not in ("meta", "img", "source", "input"):
            self.open.append(tag)

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
    """The shown texts of the frame's only column, and the attributes of its cells."""
    document = render(page_of(DataTable(frame=frame, caption="", **fields)))
    found = re.findall("<td.*?>(.*?)</td>", document)
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
        Warnings(items=[(EVIL, EVIL)]),
        Checklist(items=[(EVIL, EVIL)]),
        Drawing(name=EVIL, caption=EVIL, light=svg(EVIL), dark=svg(EVIL)),
        DataTable(frame=frame, caption=EVIL, units={EVIL: EVIL}, formats={"x": lambda _: EVIL}),
    ]
    sections = [Section(title=EVIL, blocks=blocks)]
    document = render(
        Page(title=EVIL, subtitle=EVIL, sections=sections, commands=[EVIL], generated=EVIL)
    )
    outline = Outline(document)
    assert len(outline.all("script")) == 1
    assert outline.all("img")[0]["alt"] == EVIL
    # The page's title twice, its other texts, the section's title with two contents; the blocks
    assert outline.text.count(EVIL) == 2 + 3 + 3 + 15


def test_nothing_is_fetched():
    blocks = [Drawing(name="a", caption="A", light=svg("light"), dark=PNG.getvalue())]
    document = render(page_of(*blocks, Text(text="see https://arxiv.org")))
    outline = Outline(document)
    addresses = [
        attrs[key] for _, attrs in outline.tags for key in ("src", "srcset", "href") if key in attrs
    ]
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not outline.all("link")
    assert "default-src 'none'" in document
    assert "url(" not in document
    assert base64.b64encode(svg("light")).decode() in outline.all("img")[0]["src"]
    (source,) = outline.all("source")
    assert source["srcset"].startswith("data:image/png;base64,")
    assert "prefers-color-scheme: dark" in source["media"]


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
        outline = Outline(render(page_of(DataTable(frame=frame, caption="", sortable=False))))
        assert len(outline.all("input")) == n_filters
        assert "class" not in outline.all("table")[0]


def test_warnings_and_gaps_are_evident():
    document = render(
        page_of(Warnings(items=[]), Checklist(items=[("seed", None), ("lr", " "), ("d", "1")]))
    )
    assert "nothing speaks against these numbers" in document
    assert document.count('<dd class="missing">not recorded</dd>') == 2
    assert "<dd>1</dd>" in document


def test_bad_blocks_are_refused():
    frame = pd.DataFrame({"loss": [1.0]})
    with pytest.raises(ValueError, match="units: 'los' is not a column of 'Runs'; it has loss"):
        DataTable(frame=frame, caption="Runs", units={"los": "nats"})
    with pytest.raises(ValueError, match=r"dark=.* is neither SVG nor PNG"):
        Drawing(name="a", caption="A", light=svg(""), dark=b"GIF89a")
    with pytest.raises(ValueError, match=r"formats\['loss'\]='d' does not suit 1.0"):
        cells(frame, formats={"loss": "d"})


def test_writes_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "page.html"
    write(page_of(), path)
    before = path.read_text()
    assert before.endswith("</html>\n")
    with pytest.raises(ValueError, match="does not suit"):
        write(
            page_of(DataTable(frame=pd.DataFrame({"x": ["a"]}), caption="", formats={"x": "d"})),
            path,
        )
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]
