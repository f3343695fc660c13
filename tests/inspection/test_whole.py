"""Tables, page and card of an inspection are those that were written, or they are named."""

import json
import shutil
from dataclasses import replace

import pytest

from experiments.inspection.page.page import render_page
from experiments.inspection.results import (
    STATISTICS,
    TABLES,
    fitting,
    read_inspection,
    write_results,
)
from experiments.system.several_files import NotWholeError, _seal
from tests.inspection.made import made_inspection, with_additions


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with an inspection, another one with that of other slots, and its identity."""
    folder = tmp_path_factory.mktemp("written")
    for name, n_experts in (("own", 64), ("other", 36)):
        found = with_additions(made_inspection(n_experts)[0])
        write_results(folder / name, found, render_page(found, name="pkm"))
        (folder / name / STATISTICS).touch()
    return folder, found.identity


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it."""
    shutil.copytree(written[0] / "own", tmp_path / "own")
    return tmp_path / "own"


def half(path, other):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))


def torn(path, other):
    path.write_bytes(path.read_bytes()[:-9])


def digit(path, other):
    text = path.read_text()
    place = max(map(text.rfind, "123456789"))
    path.write_text(f"{text[:place]}{int(text[place]) % 9 + 1}{text[place + 1 :]}")


def mixed(path, other):
    shutil.copy(other / path.name, path)


def twice(path, other):
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def missing(path, other):
    path.unlink()


def empty(path, other):
    path.write_text("")


CUT = ("lifts", "nearest", "contexts", "chosen", "promoted", "tokens", "parts", "bigrams")
DAMAGES = [
    *((half, f"{name}.csv") for name in CUT),
    *((digit, f"{name}.csv") for name in ("experts", "map", "classes", "lifts", "excerpts")),
    *((mixed, f"{name}.csv") for name in ("experts", "nearest", "chosen")),
    (twice, "strings.csv"), (torn, "inspect.html"), (digit, "inspect.html"),
    *((how, name) for how in (missing, empty) for name in ("tokens.csv", "inspect.html")),
]  # fmt: skip


@pytest.mark.parametrize(("how", "name"), DAMAGES, ids=lambda one: getattr(one, "__name__", one))
def test_a_damaged_file_is_named_and_no_other(how, name, folder, written):
    there = read_inspection(folder)
    before = (folder / name).read_bytes()
    how(folder / name, written[0] / "other")
    assert not (folder / name).exists() or (folder / name).read_bytes() != before
    with pytest.raises(NotWholeError, match=rf"{name} is (not the file|missing)") as error:
        read_inspection(folder)
    assert list(error.value.wrong) == [name]
    assert "\n" not in str(error.value)
    again, wrong = fitting(folder, there.identity)
    assert list(wrong) == [name]
    assert again.tables.keys() == {table for table in TABLES if f"{table}.csv" != name}
    assert (again.typed, again.strings) == (there.typed, there.strings)


def sealed(folder, change):
    """With another card, as if it had been written so."""
    path = folder / "card.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    path.write_text(json.dumps({**content, "sha256": _seal(content)}))


CHANGES = {
    "a renamed layer": (
        lambda card: card["layers"][0].update(name="blocks.5.ffn"),
        "has the layers blocks.5.ffn, blocks.1.ffn, and not those read",
    ),
    "a renamed text": (
        lambda card: card["identity"]["texts"][1].update(name="cats"),
        "has a text that card.json does not name: dogs",
    ),
    "no about": (lambda card: card.update(about={}), "a value is missing or of another kind"),
    "no layers": (lambda card: card.update(layers=[]), "has the layers none, and not those read"),
    "a layer of nothing": (lambda card: card.update(layers=[{}]), "of another kind"),
    "layers of another kind": (lambda card: card.update(layers=5), "of another kind"),
    "no identity": (lambda card: card.pop("identity"), "a value is missing"),
    "an empty identity": (lambda card: card.update(identity={}), "a value is missing"),
    "texts of another kind": (
        lambda card: card["identity"].update(texts=["a"]), "a value is missing or of another kind"
    ),
    "no typed texts": (lambda card: card.pop("typed"), "a value is missing"),
    "typed texts of another kind": (lambda card: card.update(typed=None), "of another kind"),
    "a map of nothing": (
        lambda card: card["about"]["blocks.0.ffn"].pop("map"), "a value is missing"
    ),
    "a file less": (lambda card: card["files"].pop("lifts.csv"), "it lists no lifts.csv"),
    "no files": (lambda card: card.pop("files"), "it lists no files"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_card_that_somebody_else_wrote_is_held_against_its_tables(case, folder):
    there = read_inspection(folder)
    change, said = CHANGES[case]
    sealed(folder, change)
    with pytest.raises(NotWholeError, match=said):
        read_inspection(folder)
    _, wrong = fitting(folder, json.loads((folder / "card.json").read_text()).get("identity", {}))
    assert any(said in why for why in wrong.values())
    if case == "a renamed text":
        with pytest.raises(ValueError, match="other texts"):
            fitting(folder, there.identity)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("expert", "nan", "has a value of expert that is no whole number"),
        ("layer", "blocks.9.ffn", "has a layer that card.json does not name: blocks.9.ffn"),
        ("lift", "much", "could not convert string to float: 'much'"),
        ("expert", None, "has no column expert"),
    ],
)
def test_tables_that_somebody_else_wrote_are_held_against_the_card(column, value, said, folder):
    """Their hashes are as the card has them."""
    found = read_inspection(folder)
    table = found.tables["lifts"]
    made = table.drop(columns=column) if value is None else table.assign(**{column: value})
    page = (folder / "inspect.html").read_text()
    write_results(folder, replace(found, tables={**found.tables, "lifts": made}), page)
    with pytest.raises(NotWholeError, match=f"lifts.csv {said}"):
        read_inspection(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"identity": 5}'])
def test_a_card_that_says_nothing_is_made_again_where_statistics_say_of_what(content, folder):
    identity = read_inspection(folder).identity
    (folder / "card.json").write_text(content)
    found, wrong = fitting(folder, identity)
    assert found is None
    assert list(wrong) == ["card.json"]
    (folder / STATISTICS).unlink()
    with pytest.raises(ValueError, match="nothing there says which texts its tables are of"):
        fitting(folder, identity)


def test_results_of_other_questions_and_of_earlier_versions_are_refused(folder):
    identity = read_inspection(folder).identity
    for change, said in (({"weights": "f"}, "weights"), ({"run_id": "9", "patch": "x"}, "run_id,")):
        with pytest.raises(ValueError, match=rf"of another inspection \(other {said}"):
            fitting(folder, {**identity, **change})
    content = json.loads((folder / "card.json").read_text())
    old = {key: content[key] for key in ("identity", "layers", "about", "typed")}
    old["identity"]["format"] = 5
    (folder / "card.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"of another inspection \(other format\); name another"):
        fitting(folder, identity)
    with pytest.raises(NotWholeError, match=r"it lists no files, as those of earlier versions"):
        read_inspection(folder)
