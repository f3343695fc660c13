"""Page as a real browser shows it: its layout, contrast, sorting, filter and silence."""

import io
import re
import struct
import time

import matplotlib.image as mpl_image
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

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

N_ROWS = 40
LONG = "peer n_heads=8 query_norm=batch, " + "a_name_without_any_place_to_break_it_" * 3
# The least contrast of visible texts with what is behind them, as WCAG 2.2 defines it
CONTRAST = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map(
      (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const colour = parse(getComputedStyle(element).backgroundColor);
    return colour[3] === 0 ? behind(element.parentElement) : colour;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    const colours = [parse(getComputedStyle(element).color), behind(element)];
    const [dark, light] = colours.map((c) => luminance(c.slice(0, 3))).sort((a, b) => a - b);
    found.push((light + 0.05) / (dark + 0.05));
  }
  return Math.min(...found);
})()"""


INK = {"light": "#1f2328", "dark": "#e6e8eb"}
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 300" width="900pt">'
    b'<path d="M 0 0 L 900 300" style="fill: none; stroke: #1f2328"/></svg>'
)


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    number = np.arange(N_ROWS)
    loss = 3 + rng.normal(size=N_ROWS)
    loss[::9] = np.nan
    loss[1] = loss[2] + 1e-9  # equal as shown
    return pd.DataFrame(
        {
            "series": [("moe n_experts=64", "moe n_experts=8", LONG, None)[i % 4] for i in number],
            "budget": 10.0 ** (18 + number % 3),
            "loss": loss,
            "row": number,
            **{f"a_measured_column_{i}": rng.lognormal(sigma=9, size=N_ROWS) for i in range(9)},
        }
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory, runs):
    small = DataTable(frame=runs.head(1), caption="One: nothing to sort.")
    text = Text(text="At each budget, the size of least loss. " * 12)
    blocks = [
        [text, Warnings(causes=[Cause(text=LONG, warnings=[Warning(of=LONG, text=LONG)])]), small],
        [Drawing(name="wide", caption="Wide.", svg=SVG, dark={INK["light"]: INK["dark"]})],
        [DataTable(frame=runs, caption="All.", units={"loss": "nats/token", "budget": "FLOPs"})],
        [Warnings(causes=[]), Checklist(items=[("seed", None), (LONG, LONG)])],
        [Code(text=f"python -m analysis {LONG}", caption="Long.")],
    ]
    page = Page(
        title=f"Sparse models {LONG}",
        subtitle="At equal compute",
        sections=[Section(title=f"Part {i}", blocks=b) for i, b in enumerate(blocks)],
        commands=[f"make demo {LONG}"],
        generated="today",
    )
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(page), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 700, 1280, 1600])
def test_fits_every_width_in_both_schemes(browser, path, width, scheme):
    browser.open(path, width=width, scheme=scheme)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    assert browser.run(CONTRAST) >= 4.5  # AA, for text of any size
    stroke = "getComputedStyle(document.querySelector('#wide path')).stroke"
    assert to_hex([int(v) / 255 for v in re.findall(r"\d+", browser.run(stroke))]) == INK[scheme]
    drawn = browser.run("document.querySelector('#wide svg').getBoundingClientRect().width")
    assert 300 < drawn <= 1200
    shown = "[...document.querySelectorAll('.side, .fold')].map((e) => e.checkVisibility())"
    assert browser.run(shown) == ([True, False] if width > 1000 else [False, True])
    shot = browser.screenshot()
    assert shot.startswith(b"\x89PNG")
    assert struct.unpack(">II", shot[16:24]) == (width, 900)
    assert len(set(mpl_image.imread(io.BytesIO(shot))[..., 0].ravel())) > 50  # not blank
    assert browser.complaints() == []


def column(browser, name):
    """Visible cells below that header in the big table."""
    return browser.run(
        f"""(() => {{
          const table = document.querySelector("table.sortable");
          const at = [...table.tHead.rows[0].cells].indexOf({head(name)});
          return [...table.tBodies[0].rows].filter((row) => !row.hidden)
            .map((row) => row.cells[at].dataset.value ?? row.cells[at].textContent);
        }})()"""
    )


def head(name):
    return (
        '[...document.querySelectorAll("table.sortable th")]'
        f'.find((head) => head.innerText.startsWith("{name}"))'
    )


def order(browser):
    return [int(row) for row in column(browser, "row")]


def test_sorts_numbers_by_click_at_full_precision_gaps_last(browser, path, runs):
    browser.open(path)
    for direction, up in (("ascending", True), ("descending", False)):
        browser.run(f"{head('loss')}.firstChild.click()")
        assert browser.run(f"{head('loss')}.ariaSort") == direction
        expected = runs.sort_values("loss", ascending=up, kind="stable", na_position="last")
        assert order(browser) == expected["row"].tolist()
    browser.run(f"{head('loss')}.firstChild.click()")
    assert browser.run(f"{head('loss')}.ariaSort") == "none"
    assert order(browser) == runs["row"].tolist()
    assert browser.complaints() == []


def test_sorts_text_by_keyboard_and_keeps_the_order_of_equals(browser, path, runs):
    browser.open(path)
    browser.run(f"{head('loss')}.firstChild.click()")
    for key, text, up in (("Enter", "\r", True), ("Space", " ", False)):
        browser.run(f"{head('series')}.firstChild.focus()")
        browser.press(key, text)
        rank = runs["series"].map({"moe n_experts=8": 0, "moe n_experts=64": 1, LONG: 2})
        expected = (
            runs.assign(rank=rank)
            .sort_values("loss", kind="stable")
            .sort_values("rank", ascending=up, kind="stable")
        )
        assert order(browser) == expected["row"].tolist()
    assert browser.run("document.querySelectorAll('[aria-sort=none]').length") == runs.shape[1] - 1


def test_filters_by_all_words_and_still_sorts(browser, path, runs):
    browser.open(path)
    write_filter = (
        "(() => {{ const input = document.querySelector('input'); input.value = {!r};"
        "input.dispatchEvent(new Event('input'));"
        "return document.querySelector('output').value }})()"
    )
    wanted = runs[(runs["series"] == "moe n_experts=8") & (runs["budget"] == 1e18)]
    assert browser.run(write_filter.format("EXPERTS=8 1e18")) == f"{len(wanted)} of 40 rows"
    browser.run(f"{head('loss')}.firstChild.click()")
    assert order(browser) == wanted.sort_values("loss")["row"].tolist()
    assert browser.run(write_filter.format("nowhere")) == "0 of 40 rows"
    assert browser.run(write_filter.format("")) == ""
    assert len(order(browser)) == N_ROWS
    assert browser.run("document.querySelectorAll('input').length") == 1  # none above few rows


def test_the_header_stays_and_the_box_scrolls(browser, path):
    browser.open(path)
    top = """(() => {
      const table = document.querySelector("table.sortable"), box = table.parentElement;
      box.scrollTo(100, 200);
      return [box.scrollLeft, box.scrollTop,
        table.tHead.rows[0].cells[3].getBoundingClientRect().top - box.getBoundingClientRect().top];
    })()"""
    left, down, offset = browser.run(top)
    assert (left, down) == (100, 200)
    assert 0 <= offset <= 2  # the box's border


def test_copies_code(browser, path):
    browser.open(path)
    button = "document.querySelector('#commands .copy')"
    browser.run(f"{button}.focus()")
    browser.press("Enter", "\r")
    later = "new Promise((done) => setTimeout(() => done({}), 300))"
    assert browser.run(later.format(f"{button}.innerText")) == "Copied"


@pytest.mark.parametrize("script", [True, False])
def test_a_table_is_saved_as_csv(browser, path, runs, tmp_path, script):
    browser.open(path, script=script)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("[...document.querySelectorAll('a[download]')].at(-1).click()")
    saved = tmp_path / browser.run("[...document.querySelectorAll('a[download]')].at(-1).download")
    for _ in range(200):
        if saved.exists():
            break
        time.sleep(0.05)
    read = pd.read_csv(saved)
    pd.testing.assert_frame_equal(read, runs, check_dtype=False)
    assert browser.run("location.protocol") == "file:"  # it is saved, not opened
    assert browser.complaints() == []


def test_reads_without_script(browser, path):
    browser.open(path, script=False)
    visible = "[...document.querySelectorAll({!r})].filter((e) => e.checkVisibility()).length"
    assert browser.run(visible.format("button, input")) == 0
    assert browser.run(visible.format("table.sortable tbody tr")) == N_ROWS


def test_warnings_unfold(browser, path):
    browser.open(path, script=False)
    shown = "document.querySelector('.warnings li').checkVisibility()"
    assert not browser.run(shown)
    browser.run("document.querySelector('.warnings summary').click()")
    assert browser.run(shown)


def test_runs_no_script_but_its_own(browser, path, tmp_path):
    tampered = tmp_path / "tampered.html"
    document = path.read_text()
    tampered.write_text(
        document.replace("</main>", "<script>document.title = 'evil'</script></main>")
    )
    browser.open(tampered)
    assert browser.run("document.title").startswith("Sparse models")
    assert "script-src" in str(browser.complaints())
