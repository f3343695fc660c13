"""README, CONTRIBUTING and docs: their links, lists and printed output are true."""

import importlib.util
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments.points import point
from experiments.run import main
from tests.conftest import REPOSITORY
from tests.extending import ROOMS

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
DOCUMENTS += sorted((REPOSITORY / "docs").glob("*.md"))
DOCUMENTS += [
    REPOSITORY / "results" / "study" / f"{name}.md" for name in ("first", "pilots", "appendix")
]
README = DOCUMENTS[0].read_text()
DOCUMENTS += ROOMS


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix()
)
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
    """Anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_a_module(document):
    modules = set(re.findall(r"python -m ((?:experiments|analysis)[\w.]*)", document.read_text()))
    for module in modules:
        assert importlib.util.find_spec(module.rstrip(".")) is not None, module


def test_the_index_has_every_document():
    """In the tables of its subjects, of which docs/conf.py makes the contents of the site."""
    index = (REPOSITORY / "docs" / "README.md").read_text()
    subjects = index.partition("## All of them")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| \[[^]]*\]\((\w[\w-]*\.md)\)", subjects, re.MULTILINE)
    assert len(rows) == len(set(rows))
    named = set(rows)
    assert named == {path.name for path in (REPOSITORY / "docs").glob("*.md")} - {"README.md"}


def test_the_map_has_every_folder():
    index = (REPOSITORY / "docs" / "README.md").read_text()
    rows = re.findall(r"^\| (`[^|]*/`) \|", index[index.index("## Map") :], re.MULTILINE)
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


def test_the_readme_shows_what_its_plan_prints(monkeypatch, capsys):
    """But for the last columns, which are the machine's: time, memory, and epochs before there
    are tokens.
    """
    shown = re.search(r"^\$ python -m experiments\.run (.*)\n((?:.+\n)+?)```", README, re.MULTILINE)
    assert shown is not None
    monkeypatch.setattr(sys, "argv", ["experiments.run", *shlex.split(shown[1])])
    # times that differ by rounding alone, 8.4 and 8.6 s, would be a column
    monkeypatch.setattr(point, "measured_peak_flops", lambda *_, **__: 1e11)
    GlobalHydra.instance().clear()
    main()
    out = capsys.readouterr().out.split("\n")
    printed = [line for line in out if not re.match("(composing|planning): ", line)]  # slow ones
    lines = shown[2].rstrip("\n").split("\n")
    assert len(lines) == 8
    shared = "each run: budget 6e+11, est. time "
    assert lines[0].startswith(shared)
    assert printed[0].startswith(shared)

    def known(line):  # but for memory, and epochs, which are a column where there are tokens
        return [word for word in line.split()[:-2] if not re.fullmatch(r"epochs|\d\.\d\d", word)]

    assert [known(line) for line in lines[1:]] == [known(line) for line in printed[1:8]]
    assert all(len(known(line)) >= 8 for line in lines[1:])


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


EXTRA = re.compile(r"\.\[([\w-]+)\]'|\binstall\(['\"]([\w-]+)['\"]\)|expert-isoflops\[([\w-]+)\]")


def test_every_extra_that_is_named_exists_and_can_be_installed():
    """No release is on PyPI, so `pip install 'expert-isoflops[hf]'` would find nothing."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    places = [*DOCUMENTS, *(REPOSITORY / "analysis").rglob("*.ipynb")]
    for folder in ("src", "analysis", "conf"):
        places += [p for p in (REPOSITORY / folder).rglob("*") if p.suffix in (".py", ".yaml")]
    named = set()
    for path in places:
        for here, by_function, released in EXTRA.findall(path.read_text()):
            assert not released, f"{path}: pip finds no such release; say pip install -e '.[...]'"
            named.add(here or by_function)
    assert {
        "train",
        "parquet",
        "hub",
        "hf",
        "peft",
        "search",
        "lm-eval",
        "bench",
        "submitit",
    } <= named
    assert named <= set(project["optional-dependencies"])
