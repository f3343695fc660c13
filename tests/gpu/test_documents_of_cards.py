"""Table in docs/performance.md, and wheels for another machine."""

from pathlib import Path

import pytest

from experiments.gpu import documents, wheels
from experiments.gpu.goals import Goal
from experiments.gpu.report import DONE, Measurement, Report
from tests.conftest import REPOSITORY


def test_the_document_says_what_the_committed_reports_do():
    text = (REPOSITORY / documents.DOCUMENT).read_text()
    lines = documents.section(REPOSITORY / documents.REPORTS)
    assert documents.replaced(text, lines) == text, "python -m experiments.gpu.documents"


@pytest.fixture
def reports(tmp_path):
    for name, toy in (("a-card", False), ("cpu", True)):
        about = {"card": name, "toy": toy, "torch": "2.1", "commit": "0123456789"}
        report = Report(tmp_path / name, about)
        report.begin("layer")
        goal = Goal(at_most=1.4)
        report.add("layer", Measurement(name="time over its floor", value=1.5, goal=goal))
        report.end("layer", DONE, 1)
    return tmp_path


def test_a_card_s_table_is_in_the_document(reports):
    text = f"# Title\n\n{documents.BEGIN}\nold\n{documents.END}\n\nmore\n"
    written = documents.replaced(text, documents.section(reports))
    assert "| layer | time over its floor | 1.5 | ≤ 1.4 | **no** |  |" in written
    assert "[all numbers](../results/gpu/a-card/report.md)" in written
    assert "(torch 2.1, commit 0123456;" in written
    assert "cpu" not in written, "toy sizes are no measurement"
    assert "old" not in written
    assert written.startswith("# Title\n")
    assert written.endswith("\n\nmore\n")
    assert documents.replaced(written, documents.section(reports)) == written


def test_without_a_card_it_says_so(tmp_path):
    assert documents.section(tmp_path) == [documents.NONE]


def test_a_document_without_marks_is_refused():
    with pytest.raises(ValueError, match="must have the marks"):
        documents.replaced("text", [])


def test_the_packages_are_closed_but_for_what_such_a_machine_has():
    found = wheels.packages("3.12")
    for name in found:
        needs = {n.lower().replace("_", "-") for n in wheels._needs(name, "3.12")}
        assert needs <= set(found) | wheels.PRESENT
    assert set(wheels.ROOTS) <= set(found)
    assert not {"torch", "triton", "numpy", "wandb"} & set(found)


def test_platforms_are_those_of_older_systems_too():
    tags = wheels.platforms("manylinux_2_28_aarch64")
    assert tags[0] == "manylinux_2_28_aarch64"
    assert "manylinux2014_aarch64" in tags
    assert "manylinux_2_34_aarch64" not in tags
    with pytest.raises(ValueError, match="must be manylinux_2_N_ARCH"):
        wheels.platforms("linux_x86_64")


@pytest.mark.parametrize("n_bytes", [10, wheels.MOST_BYTES + 1])
def test_more_than_a_machine_takes_is_refused(tmp_path, capsys, n_bytes):
    with (tmp_path / "a.whl").open("wb") as file:
        file.truncate(n_bytes)
    if n_bytes > wheels.MOST_BYTES:
        with pytest.raises(RuntimeError, match="more than 40 MiB"):
            wheels.report(tmp_path)
    else:
        wheels.report(Path(tmp_path))
    assert "MiB in all, of 40 at most" in capsys.readouterr().out


def test_help_writes_nothing(tmp_path, monkeypatch, capsys):
    document = tmp_path / documents.DOCUMENT
    document.parent.mkdir()
    document.write_text(f"{documents.BEGIN}\nold\n{documents.END}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["documents", "--help"])
    with pytest.raises(SystemExit) as end:
        documents.main()
    assert not end.value.code
    assert "experiments.gpu.documents" in capsys.readouterr().out
    assert "old" in document.read_text()
