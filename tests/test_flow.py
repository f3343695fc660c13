"""Picture of the flow is what its script draws, and its names are those of the code."""

import importlib.util
import re
import runpy

import pytest

from tests.conftest import REPOSITORY

FLOW = runpy.run_path(str(REPOSITORY / "docs" / "figures" / "flow.py"))


def test_the_committed_picture_is_the_drawn_one():
    assert FLOW["PICTURE"].name == "flow.svg"
    assert FLOW["PICTURE"].read_text() == FLOW["drawn"](), "run python docs/figures/flow.py"


@pytest.mark.parametrize("stage", FLOW["STAGES"], ids=lambda stage: stage.name)
def test_the_names_of_a_stage_are_of_the_code(stage):
    for module in (*stage.rooms, *stage.commands):
        assert importlib.util.find_spec(module) is not None, module
    code = _code()
    for part in (part for file in stage.files for part in re.split(r"[*/]", file) if part):
        assert re.search(rf'["/}}]{re.escape(part)}"', code), part


def test_every_command_but_two_enters_somewhere():
    """library makes a thing of several runs, beside the flow of one; completion is a shell's."""
    entered = {c.rpartition(".")[2] for stage in FLOW["STAGES"] for c in stage.commands}
    commands = {path.stem for path in (REPOSITORY / "src" / "experiments").glob("[!_]*.py")}
    assert commands - entered == {"completion", "library"}


def _code() -> str:
    folders = (REPOSITORY / "src" / "experiments", REPOSITORY / "analysis")
    return "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
