"""docs/layers.md: a section a layer, and pictures and a table that are those of the code."""

import re
import runpy

import pytest

from experiments.gpu.documents import replaced
from tests.conftest import REPOSITORY

LAYERS = runpy.run_path(str(REPOSITORY / "docs" / "figures" / "layers.py"))
TEXT = LAYERS["DOCUMENT"].read_text()
AGAIN = "run python docs/figures/layers.py"


def sections():
    """By the name of a layer, what the document says of it."""
    _, _, text = TEXT.partition(LAYERS["MARKS"][1])
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_layer_of_conf_has_a_section_and_a_picture_and_no_other_has():
    names = set(LAYERS["NAMES"])
    assert names == set(sections()), "a section ## NAME in docs/layers.md"
    assert names == set(LAYERS["FLOWS"]), "an entry of FLOWS in docs/figures/layers.py"
    assert names == {path.stem for path in LAYERS["PICTURES"].glob("*.svg")}, AGAIN


@pytest.mark.parametrize("name", LAYERS["NAMES"])
def test_a_section_has_its_parts(name):
    text = sections()[name]
    assert f"![{name}](figures/layers/{name}.svg)" in text
    assert re.search(r"^    .*\by = ", text, re.MULTILINE), "an equation of y"
    for part in ("Counted", "Claimed", "Found"):
        assert f"- **{part}:** " in text, part


@pytest.mark.parametrize("name", LAYERS["NAMES"])
def test_the_committed_picture_is_the_drawn_one(name):
    path = LAYERS["PICTURES"] / f"{name}.svg"
    assert path.read_text() == LAYERS["drawn"](name), AGAIN


def test_the_table_is_that_of_the_code():
    assert replaced(TEXT, LAYERS["table"](), LAYERS["MARKS"]) == TEXT, AGAIN
