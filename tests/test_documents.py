"""README, CONTRIBUTING and docs: their links, commands, lists and printed output are true."""

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.run import main
from tests.conftest import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
README = DOCUMENTS[0].read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_its_heading(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document if not name else (document.parent / name).resolve()
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path), target


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_a_module(document):
    modules = set(re.findall(r"python -m ((?:experiments|analysis)[\w.]*)", document.read_text()))
    for module in modules:
        assert importlib.util.find_spec(module.rstrip(".")) is not None, module


def test_the_index_has_every_document():
    index = (REPOSITORY / "docs" / "README.md").read_text()
    named = set(re.findall(r"\]\((\w[\w-]*\.md)\)", index))
    assert named == {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}


def test_the_readme_s_map_has_every_folder():
    rows = re.findall(r"^\| (`[^|]*/`) \|", README[README.index("## Map") :], re.MULTILINE)
    folders, parent = set(), ""
    for row in rows:
        for name in row.strip("`").split():
            if name == "…":
                continue
            under = row.startswith("`…")
            parent = parent if under else name
            folder = parent + name if under else name
            assert (REPOSITORY / folder).is_dir(), folder
            folders.add(folder)
    source = REPOSITORY / "src" / "experiments"
    rooms = {
        f"src/experiments/{path.name}/"
        for path in source.iterdir()
        if path.is_dir() and any(path.glob("*.py"))
    }
    assert rooms <= folders


@pytest.mark.slow
def test_the_readme_shows_what_its_plan_prints(monkeypatch, capsys):
    """But for the last columns, which are the machine's: time, memory, and epochs before there
    are tokens.
    """
    shown = re.search(r"^\$ python -m experiments\.run (.*)\n((?:.+\n)+?)```", README, re.MULTILINE)
    assert shown is not None
    monkeypatch.setattr(sys, "argv", ["experiments.run", *shlex.split(shown[1])])
    GlobalHydra.instance().clear()
    main()
    printed = capsys.readouterr().out.split("\n")
    lines = shown[2].rstrip("\n").split("\n")
    assert len(lines) == 5
    assert lines[0].split() == printed[0].split()

    def known(line):
        words = line.split()
        return words[: words.index("1e+12") + 2] + [w for w in words if re.search(r"e-\d\d", w)]

    assert [known(line) for line in lines[1:]] == [known(line) for line in printed[1:5]]
    assert all(len(known(line)) >= 9 for line in lines[1:])


def test_contributing_lists_the_layers_that_the_linter_holds():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    (contract,) = (
        c
        for c in project["tool"]["importlinter"]["contracts"]
        if c.get("containers") == ["experiments"]
    )
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    listed = [
        re.findall(r"`(\w+)`", line)
        for line in re.findall(r"^\d+\. .*(?:\n {3}.*)*", text, re.MULTILINE)
    ]
    assert listed == [layer.split(" | ") for layer in contract["layers"]]


def test_contributing_names_the_makefile_s_targets():
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for document in DOCUMENTS:
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= set(targets), document.name
