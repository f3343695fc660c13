"""Report of a sweep: what is in it, that it stands alone, and that a browser shows it."""

import html
import json
import re

import pandas as pd
import pytest

from analysis import FitError, load_table
from analysis.__main__ import main
from experiments.records.files import write_record
from tests.analysis.hand_made import write_run
from tests.records.test_record import record


@pytest.fixture(scope="module")
def report(tmp_path_factory, few_draws):
    """Folder of a report on three models at three budgets, with a failed and a hostile run."""
    folder = tmp_path_factory.mktemp("report")
    for model, gain in (("dense", 0.0), ("moe", 0.05), ("peer", 0.1)):
        tables = 0 if model == "dense" else 200_000
        for k, budget in enumerate((2e11, 6e11, 1.8e12)):
            for size in range(1, 7):
                active = 60_000 * size**1.5
                x_opt = 2.5e5 * 3 ** (0.5 * k)
                wobble = 0.002 * ((size * 7 + k * 3) % 5 - 2)
                loss = 5 - 0.3 * k - gain + 0.08 * ((active / x_opt) ** 0.5 - 1) ** 2 + wobble
                more = {
                    "causal_eval": model != "moe",
                    "n_experts": None if model == "dense" else 64,
                    "config": {"optim": {"schedule": "cosine"}, "ladder": {"vocab_size": 2048}},
                    "environment": {"command": ["/x/experiments/run.py", "experiment=demo"]},
                }
                write_run(folder, model, budget, size, active, loss, tables=tables, **more)
    write_record(
        folder / "broken",
        record(run_id="<script>alert(1)</script>", status="failed", val_loss=None),
    )
    assert main(["report", str(folder), "--asymptote", "1.5", "--title", "A & B"]) == 0
    return folder


@pytest.fixture(scope="module")
def page(report):
    return (report / "report.html").read_text()


@pytest.mark.night
def test_warnings_of_fits_to_fewer_budgets_say_so(report, page):
    said = json.loads((report / "fits.json").read_text())["hold_out"]["warnings"]
    assert said
    plain = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert all(f"held-out budgets, {text}" in plain for text in said)


def test_leads_with_the_answer_and_has_every_section_that_the_table_allows(page):
    headings = re.findall(r"<h2[^>]*>(?:<a[^>]*>)?([^<]+)", page)
    assert [heading.strip() for heading in headings] == [
        "Answer",
        "IsoFLOP curves",
        "Laws of compute",
        "Compute multipliers by a law",
        "Parametric surface",
        "Do the approaches agree?",
        "Held-out budgets",
        "Runs",
        "Checklist",
        "Commands",
    ]
    answer = page[page.index('<section id="answer"') : page.index('<section id="isoflop-curves"')]
    marks = ['<figure class="table"', 'id="isoflop"', 'id="frontier"', 'class="warnings"']
    places = [answer.index(mark) for mark in marks]
    assert places == sorted(places)


def test_every_figure_is_there_once(page):
    names = re.findall(r'<figure class="drawing" id="([^"]+)"', page)
    assert len(names) == len(set(names)) >= 7
    assert page.count('role="img"') == len(names)
    assert "base64,PHN2" not in page  # an SVG in an address


def test_every_id_is_there_once_and_every_link_has_one(page):
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert set(links) <= set(ids)
    warnings = page[page.index('<aside class="warnings">') : page.index("</aside>")]
    assert {"isoflop", "laws", "runs"} <= set(re.findall('href="#([^"]+)"', warnings))


def test_says_what_made_it_and_what_to_take_care_with(page):
    assert "A &amp; B" in page
    assert "python -m experiments.run experiment=demo" in page
    assert "python -m analysis report" in page
    assert "moe: scored with routing that sees later tokens; not causal" in page
    assert "one seed everywhere" in page
    assert "1 run failed: shown below, not fitted" in page
    assert "schedule: cosine" in page
    assert "not recorded" in page  # the corpus of these records


def test_escapes_the_names_of_runs_and_fetches_nothing(page):
    assert "<script>alert(1)" not in page
    assert not re.search(r"(?:src|href)=\"https?:", page)


def test_figures_are_written_for_papers_too(report):
    figures = {path.name for path in (report / "figures").iterdir()}
    for name in ("isoflop", "isoflop_together", "laws", "frontier", "contours_peer"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    assert (report / "figures" / "laws.pdf").read_bytes().startswith(b"%PDF")


def test_fits_are_kept_at_full_precision_and_the_table_loads_again(report):
    fits = json.loads((report / "fits.json").read_text())
    assert {curve["model"] for curve in fits["isoflop"]["curves"]} == {"dense", "moe", "peer"}
    assert set(fits["parametric"]) == {"dense", "moe", "peer"}
    assert fits["multipliers"]["models"] == ["moe", "peer"]
    assert len(repr(fits["isoflop"]["curves"][0]["x_opt"])) > 12
    again = load_table(report / "table.csv")
    pd.testing.assert_series_equal(again["loss"], load_table(report)["loss"])


def test_a_table_without_finished_runs_writes_nothing(tmp_path):
    write_record(tmp_path / "a", record(status="failed", val_loss=None))
    assert main(["report", str(tmp_path)]) == 2
    assert not (tmp_path / "report.html").exists()
    assert issubclass(FitError, ValueError)  # which is what the command turns into exit code 2


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(report, browser, width, scheme):
    browser.open(report / "report.html", width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    sizes = """[...document.querySelectorAll(".drawing svg")].map((svg) => {
        const drawn = svg.getBBox(), shown = svg.getBoundingClientRect();
        return [drawn.width, drawn.height, shown.width, shown.height];
    })"""
    found = browser.run(sizes)
    assert len(found) >= 7
    assert all(min(each) > 100 for each in found)
    assert browser.screenshot().startswith(b"\x89PNG")
    assert browser.complaints() == []


def test_a_click_sorts_the_runs(report, browser):
    browser.open(report / "report.html")
    losses = """(() => {
        const table = [...document.querySelectorAll("table")].find(
            (t) => [...t.querySelectorAll("th")].some((h) => h.textContent.includes("run_id")));
        const heads = [...table.querySelectorAll("th")];
        const at = heads.findIndex((h) => h.textContent.trim().startsWith("loss"));
        (heads[at].querySelector("button") || heads[at]).click();
        return [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[at].textContent));
    })()"""
    found = browser.run(losses)
    known = [value for value in found if value is not None]
    assert len(found) == 55
    assert known == sorted(known)
    assert found[-1] is None  # the failed run has no loss, and is last
