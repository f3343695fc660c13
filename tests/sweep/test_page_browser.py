"""Page of a sweep in a real browser: drawn, legible, silent, and loaded again while it changes."""

import time

import pytest

from experiments.sweep.page.page import SweepPage
from tests.analysis.report.test_page_browser import CONTRAST
from tests.sweep.made_page import EVIL, two_models


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return SweepPage(folder, "s"), two_models(folder)


@pytest.fixture(scope="module")
def path(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "status.html"
    page, state = made
    path.write_text(page.render(state, every=600.0), encoding="utf-8")
    return path


def count(browser, selector):
    return browser.run(f"document.querySelectorAll({selector!r}).length")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_is_legible_and_silent(browser, path, width, scheme):
    browser.open(path, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(CONTRAST) >= 4.5
    assert count(browser, "#isoflop_panels svg") == 2
    assert count(browser, "#isoflop_panels polyline") == 4
    assert count(browser, "#isoflop_panels .hollow") == 3  # two failed, one goes on
    assert count(browser, "#curves_chart polyline") == 11
    assert count(browser, "#curves_chart .hollow") == 1
    shown = browser.run("document.body.innerText")
    assert "loss (nats/token)" in shown
    assert "training compute (FLOPs, log scale)" in shown
    assert "10¹¹ FLOPs" in shown
    assert "2.4×10¹¹ FLOPs" in shown
    assert count(browser, "img") == 0
    assert EVIL[:9] in shown  # as a text
    assert browser.complaints() == []


def test_models_and_budgets_are_chosen(browser, path):
    browser.open(path)
    browser.run("document.querySelector('.legend button').click()")
    assert count(browser, "#isoflop_panels polyline") == 2
    assert count(browser, "#curves_chart polyline") == 5
    assert count(browser, ".legend [aria-pressed=false]") == 2
    browser.run(
        "(() => { const choice = document.getElementById('curves_budget');"
        "choice.selectedIndex = 1;"
        "choice.dispatchEvent(new Event('change')); })()"
    )
    assert count(browser, "#curves_chart polyline") == 3
    browser.call("Page.reload")
    browser._next(lambda m: m.get("method") == "Page.loadEventFired")
    assert count(browser, "#curves_chart polyline") == 3  # it is kept
    browser.run("sessionStorage.clear()")
    assert browser.complaints() == []


def test_the_pointer_says_which_run_it_is(browser, path):
    browser.open(path)
    browser.run("document.querySelector('#isoflop_panels').scrollIntoView()")
    x, y = browser.run(
        "(() => { const box = document.querySelector('#isoflop_panels circle')"
        ".getBoundingClientRect(); return [box.x + 3, box.y + 3]; })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    said = browser.run("document.querySelector('.tip').innerText")
    assert said.startswith("dense size=2 budget=1e+11 seed=0\n10k parameters, loss 4.22")


def test_it_is_loaded_again_until_it_is_done(browser, made, tmp_path):
    page, state = made
    path = tmp_path / "status.html"
    path.write_text(page.render(state, every=1.0), encoding="utf-8")
    browser.open(path)
    path.write_text(page.render(state).replace("Sweep s", "Sweep at its end"), encoding="utf-8")
    browser._next(lambda m: m.get("method") == "Page.loadEventFired")
    assert browser.run("document.title") == "Sweep at its end"
    path.write_text(page.render(state).replace("Sweep s", "Sweep again"), encoding="utf-8")
    time.sleep(1.5)
    assert browser.run("document.title") == "Sweep at its end"
    assert browser.complaints() == []


def test_without_its_script_it_says_so_and_has_its_points(browser, path):
    browser.open(path, script=False)
    shown = browser.run("document.body.innerText")
    assert "needs the page's script" in shown
    assert count(browser, ".points tbody tr") == 12
    assert browser.run("!document.querySelector('.tools').checkVisibility()")


def test_runs_no_script_but_its_own(browser, path, tmp_path):
    tampered = tmp_path / "tampered.html"
    page = path.read_text()
    tampered.write_text(page.replace("</main>", "<script>document.title = 'evil'</script></main>"))
    browser.open(tampered)
    assert browser.run("document.title") == "Sweep s"
    assert "script-src" in str(browser.complaints())
