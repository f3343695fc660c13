"""Committed reports: what they show is what the records say, and they stay small."""

import json
import re

import pytest

from analysis import numbers
from tests.study.committed import MODELS, RESULTS, SEEDED, isoflop

PAGES = ("isoflop", "experts")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def fits():
    return json.loads((RESULTS / "isoflop" / "fits.json").read_text())


def answer(name):
    """First section's text, cell by cell."""
    page = (RESULTS / name / "report.html").read_text()
    section = page[page.index('<section id="answer"') : page.index("</section>")]
    return re.sub(r"<[^>]+>", " | ", section)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small_and_has_each_figure_once(name):
    page = (RESULTS / name / "report.html").read_text()
    assert len(page.encode()) < 3 * MEGABYTE
    drawn = re.findall(r'<figure class="drawing" id="([^"]+)"', page)
    assert len(drawn) == len(set(drawn)) > 2
    files = {path.stem for path in (RESULTS / name / "figures").glob("*.png")}
    assert {label.replace("_", "-") for label in files} <= set(drawn)


def test_the_differences_on_the_page_are_those_of_the_records(fits):
    seeds, shown = isoflop(), answer("isoflop")
    for budget in SEEDED:
        for model in set(MODELS) - {"dense"}:
            found = seeds.by_pooled(model, "dense", budget)
            bounds = (found.value - found.half, found.value + found.half)
            assert numbers.with_interval(found.value, *bounds) in shown


def test_the_multipliers_on_the_page_are_those_of_the_records(fits):
    seeds, shown = isoflop(), answer("isoflop")
    for model in set(MODELS) - {"dense"}:
        for i, budget in enumerate(SEEDED):
            one = fits["budget_multipliers"]["factors"][str(budget)][model]
            by_records, *_ = seeds.multipliers(model, "dense")[i]
            assert one["value"] == pytest.approx(by_records, rel=1e-9)
            assert one["lower"] < by_records < one["upper"]
            assert numbers.with_interval(one["value"], one["lower"], one["upper"]) in shown


def test_the_page_leads_with_who_is_significantly_lower():
    seeds, shown = isoflop(), answer("isoflop")
    for budget in SEEDED:
        lower = [
            model
            for model in MODELS
            if model != "dense"
            and (found := seeds.by_pooled(model, "dense", budget)).value + found.half < 0
        ]
        said = re.search(rf"At {numbers.flops(budget)} FLOPs, loss (.*?)\.", shown)[1]
        listed = said.removeprefix("significantly lower than dense: ").partition(";")[0]
        assert sorted(listed.split(", ")) == sorted(lower)
