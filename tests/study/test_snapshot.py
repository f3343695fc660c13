"""README, docs and results/study say what the committed records say: claims/*.yaml, and the lines
that documents show of commands.
"""

import re
import runpy
import shlex
import sys
from dataclasses import replace

import pytest
import yaml

from analysis.__main__ import main as analysis
from tests.study import snapshot
from tests.study.records import ROOT

CLAIMS = [claim for path in sorted(snapshot.CLAIMS.glob("*.yaml")) for claim in snapshot.read(path)]
DOCUMENTS = sorted({d for claim in CLAIMS for d in claim.documents if d.endswith(".md")})
AGAIN = "`python -m tests.study.snapshot` computes the table again"


@pytest.mark.parametrize("claim", CLAIMS, ids=str)
def test_a_claim_is_what_the_records_have_and_its_documents_say(claim):
    assert claim.says == claim.computed(), AGAIN
    assert claim.untrue() == []
    assert claim.unsaid() == []


def test_a_document_of_the_study_has_no_number_that_nothing_holds():
    """But those that unheld.yaml lists, with what they are."""
    listed = yaml.safe_load((snapshot.CLAIMS.parent / "unheld.yaml").read_text())
    for document, numbers in listed.items():
        found = snapshot.unheld(document, CLAIMS)
        assert sorted(found) == sorted(n for own in numbers.values() for n in own), document


def test_a_row_is_computed_in_the_form_that_is_printed():
    row = replace(
        CLAIMS[0], says="a {0.00 (+0 to -1.5e-3)} of {no} and {1,234} %", names=("records",)
    )
    row = replace(row, by='[1 / 3, (2.4, -0.00251)], "yes", np.array([4321.9])')
    assert row.computed() == "a {0.33 (+2 to -2.5e-3)} of {yes} and {4,322} %"
    assert replace(row, holds=("1 < 2", "2 < 1")).untrue() == ["2 < 1"]
    assert replace(row, says="a number of no document").unsaid() == list(row.documents)
    with pytest.raises(ValueError, match="1 values more than numbers in braces"):
        replace(row, says="a {0.00}", by="1, 2").computed()
    assert replace(row, says="a {0.0} and {0.0}", by="1").computed() == "a {1.0} and {nothing}"


def test_the_command_writes_what_the_records_have(tmp_path):
    rows = {"a": ("{4.160} and {0.01}", "mean('dense', 3e12)"), "b": ("is {12} %", "9.4")}
    text = "document: README.md\nnames: [first]\nclaims:\n" + "".join(
        f"- says: >-\n    of {name}\n    {says}\n  by: {by}, 9\n" if name == "a" else
        f"- says: {says}\n  by: {by}\n" for name, (says, by) in rows.items()
    )  # fmt: skip
    path = tmp_path / "claims.yaml"
    path.write_text(text.replace("4.160", "1.234"))
    assert snapshot.remade(path) == text.replace("0.01", "9.00").replace("{12}", "{9}")


def _shown():
    """Commands of the analysis that a document shows, and the lines below each."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for block in re.findall(r"```\n\$ (python -m analysis .*?)```", text, re.DOTALL):
            command, *lines = block.rstrip().split("\n")
            yield pytest.param(command, [x for x in lines if x != "..."], id=command[19:80])


@pytest.mark.parametrize(("command", "lines"), list(_shown()))
def test_what_a_document_shows_is_what_its_command_prints(command, lines, printed):
    found = {line.rstrip() for line in printed(command).split("\n")}
    assert lines
    assert [line for line in lines if line.rstrip() not in found] == []


def _claimed():
    """Numbers of a document's table of claims, by the command beside them."""
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        short = dict(re.findall(r"`([A-Z])` is\s+`(python -m [^`]+)`", text))
        for table in re.findall(r"\| claim \| command \| numbers \|\n\|[-|]*\n((?:\|.*\n)+)", text):
            for row in table.splitlines():
                _, command, numbers = (cell.strip("` ") for cell in row[1:-1].split(" | "))
                first, _, more = command.partition(" ")
                if first != "make":
                    yield pytest.param(
                        f"{short.get(first, first)} {more}", numbers, id=command[:60]
                    )


@pytest.mark.parametrize(("command", "numbers"), list(_claimed()))
def test_a_claim_s_command_prints_its_numbers(command, numbers, printed):
    found = " ".join(printed(command).split())
    assert [number for number in numbers.split(", ") if number not in found] == []


@pytest.fixture
def printed(tmp_path, capsys, monkeypatch):
    """printed(command): what it prints, at the root of the repository; its files go elsewhere."""
    monkeypatch.chdir(ROOT)

    def run(command):
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"]
        if words[2] == "analysis":
            assert analysis([*words[3:], "--out", str(tmp_path)]) == 0
        else:
            monkeypatch.setattr(sys, "argv", words[2:])
            monkeypatch.delitem(sys.modules, words[2], raising=False)  # else runpy warns
            runpy.run_module(words[2], run_name="__main__")
        return capsys.readouterr().out

    return run
