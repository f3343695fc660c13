"""Page in a real browser: silent, for the keyboard too, and strangers' texts stay texts."""

import pytest

from experiments.inspection.page.page import render_page
from tests.analysis.report.test_page_browser import CONTRAST
from tests.inspection.made import EVIL, made_inspection, with_additions, with_before


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "inspect.html"
    path.write_text(
        render_page(with_before(with_additions(made_inspection()[0])), name="pkm"), encoding="utf-8"
    )
    return path


def choose(browser, id_, value):
    browser.run(
        f"""(() => {{ const chooser = document.getElementById({id_!r});
        chooser.value = {value!r}; chooser.dispatchEvent(new Event("change")); }})()"""
    )


def text_of(browser, selector):
    return browser.run(f"document.querySelector({selector!r}).innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_is_legible_and_silent(browser, path, width, scheme):
    browser.open(path, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(CONTRAST) >= 4.5
    choose(browser, "experts_group", "specific")
    choose(browser, "map_layer", "1")
    assert text_of(browser, "#map_note").startswith("A strip of all experts")
    assert browser.run("document.getElementById('experts_layer').value") == "1"
    assert browser.run("document.querySelectorAll('img, script:not([type])').length") == 1
    assert browser.complaints() == []


def test_the_map_is_read_by_keys(browser, path):
    browser.open(path)
    browser.run("document.getElementById('map_canvas').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
    cell = text_of(browser, "#map_cell")
    assert cell.startswith("row 1, column 1, expert 9: ")
    assert ", before " in cell
    assert cell.endswith("% of the mass")
    drawn = """(() => { const canvas = document.getElementById("map_canvas");
      const at = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return [...at].filter((value, i) => i % 4 === 3 && value === 255).length; })()"""
    assert browser.run(drawn) == 40  # of 64 experts have mass
    browser.run("document.getElementById('map_text').selectedIndex = 1")
    browser.run("document.getElementById('map_text').dispatchEvent(new Event('change'))")
    assert browser.run(drawn) == 36


def test_the_map_before_and_the_change(browser, path):
    browser.open(path)
    assert "Before is 0011, over the same tokens. It had 48 experts." in text_of(
        browser, "#map_before"
    )
    top = "document.getElementById('map_new').style.top"
    assert browser.run(top) == "75%"
    for view, ends in (("before", "%"), ("change", "16 times")):
        choose(browser, "map_view", view)
        assert text_of(browser, "#map_most").endswith(ends)
    browser.run("document.getElementById('map_canvas').focus()")
    for key in ("ArrowDown",) * 8:
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
    assert text_of(browser, "#map_cell").endswith(", before not there")
    choose(browser, "map_layer", "1")  # which was not there
    assert not browser.run("document.querySelector('#map_before').checkVisibility()")
    assert browser.complaints() == []


def test_the_tab_key_reaches_every_control(browser, path):
    browser.open(path)
    wanted = browser.run(
        "[...document.querySelectorAll('select, input, canvas, main [tabindex=\\'0\\']')]"
        ".filter((e) => e.checkVisibility()).length"
    )
    reached = set()
    for _ in range(60):
        browser.press("Tab", "\t")
        reached.add(
            browser.run(
                "[...document.querySelectorAll('select, input, canvas, main [tabindex=\\'0\\']')]"
                ".indexOf(document.activeElement)"
            )
        )
    assert len(reached - {-1}) == wanted > 5
    named = (
        "[...document.querySelectorAll('select, input, canvas, [role=region]')].every((e) =>"
        " e.labels?.length || e.ariaLabel)"
    )
    assert browser.run(named)


def test_an_expert_shows_its_contexts_with_the_token_marked(browser, path):
    browser.open(path)
    assert browser.run("document.querySelectorAll('article').length") == 12
    marks = browser.run("[...document.querySelectorAll('mark')].map((e) => e.textContent)")
    assert EVIL in marks
    assert browser.run("document.querySelectorAll('article img').length") == 0
    choose(browser, "experts_group", "specific")
    note = text_of(browser, "#experts_note")
    assert note.startswith("Of ")
    assert "differ significantly from 1" in note
    assert browser.run("document.querySelectorAll('article').length") == 8
    for column in (2, 3):  # of texts, and of classes of tokens
        lift = text_of(browser, f"article .columns div:nth-child({column}) tbody tr")
        assert " to " in lift
    assert browser.complaints() == []


def test_a_text_is_read_token_by_token_with_keys(browser, path):
    browser.open(path)
    browser.run("document.querySelector('#excerpt_tokens [tabindex=\\'0\\']').focus()")
    before = text_of(browser, "#excerpt_note")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
    assert text_of(browser, "#excerpt_note") != before
    pressed = "[...document.querySelectorAll('#excerpt_tokens [aria-pressed=true]')].length"
    assert browser.run(pressed) == 1
    parts = browser.run(
        "[...document.querySelectorAll('#excerpt_parts td:last-child')].map((e) => e.textContent)"
    )
    *own, total = [float(part.replace("\u2212", "-")) for part in parts]
    assert sum(own) == pytest.approx(total, abs=1e-4 * len(own))  # as they are shown
    assert browser.complaints() == []


def test_searches_strings_and_experts(browser, path):
    browser.open(path)
    write = (
        "(() => {{ const input = document.getElementById({!r}); input.value = {!r};"
        "input.dispatchEvent(new Event('input')); }})()"
    )
    browser.run(write.format("search_string", "ONERROR"))
    assert text_of(browser, "#search_found").startswith("1 tokens and ")
    assert "onerror=alert(1)" in text_of(browser, "#search_table tbody td")
    browser.run(write.format("search_string", f"{EVIL} NA"))  # two tokens
    assert text_of(browser, "#search_found").startswith("0 tokens and 1 strings of two, ")
    browser.run(write.format("search_expert", "9"))
    assert text_of(browser, "#search_found").startswith("Expert 9, read by ")
    assert browser.run("document.getElementById('search_string').value") == ""
    browser.run(write.format("search_expert", "99"))
    assert "is none of those" in text_of(browser, "#search_found")
    assert browser.complaints() == []


def test_what_was_typed_and_looked_for_is_there(browser, path):
    browser.open(path)
    shown = "document.querySelector('#excerpt_text').selectedOptions[0].textContent"
    assert browser.run(shown) == f"typed 1: ⏎{EVIL}"[:49]
    own = "[...document.querySelectorAll('#strings_table tbody tr')].map((e) => e.innerText)"
    first, second = browser.run(own)
    assert EVIL.replace('"', '\\"') in first
    assert second.split("\t")[1:] == ["4", "50 % (25 % to 75 %)", "25 %", "12.5 %"]
    choose(browser, "map_layer", "1")  # which has none
    assert not browser.run("document.querySelector('#strings').checkVisibility()")
    assert browser.complaints() == []


def test_says_that_it_needs_its_script(browser, path):
    browser.open(path, script=False)
    assert browser.run("document.querySelector('table').checkVisibility()")
    assert "needs the page's script" in browser.run("document.body.innerText")


def test_runs_no_script_but_its_own(browser, path, tmp_path):
    tampered = tmp_path / "tampered.html"
    page = path.read_text()
    tampered.write_text(page.replace("</main>", "<script>document.title = 'evil'</script></main>"))
    browser.open(tampered)
    assert browser.run("document.title").startswith("Inside pkm")
    assert "script-src" in str(browser.complaints())
