"""First edition by curves together, and each claim by the command that is named beside it."""

import math
import re
import runpy
import shlex
import sys

import pytest

from analysis.__main__ import main as analysis
from analysis.contrast.compute import contrast
from analysis.table.load import load_table
from tests.study.committed import RESULTS, ROOT, SEEDED, document_table, text
from tests.study.edition_2 import shown
from tests.study.estimators import CLASSES, JOINT

PAPER, FIRST = ROOT / "docs" / "study.md", ROOT / "results" / "study" / "first.md"
NAMES = {"dense": "dense", "no layer": "none", "`moe_fine`": "moe_fine", "PKM": "pkm"}
CLAIMS = [
    (document, command, numbers)
    for document in (PAPER, FIRST)
    for _, command, numbers in document_table("claim", document)[1]
    if "make test-study" not in command
]


@pytest.fixture(scope="module")
def fitted():
    """Baseline and budget: PEER's difference, by curves that are fitted together."""
    table = load_table(RESULTS / "isoflop", where=JOINT)
    found = contrast(table, layers=["peer"], classes=CLASSES)
    return {(d.baseline, round(d.budgets[0], -10)): d for d in found.differences}


def test_the_answer_of_the_first_edition(fitted):
    _, rows = document_table("PEER minus", FIRST)
    assert [name for name, *_ in rows] == list(NAMES)
    for name, *cells, saves in rows:
        own = [fitted[NAMES[name], budget] for budget in SEEDED]
        assert cells == [shown(one.value) for one in own]
        assert saves == shown(own[1].multiplier, ".2f")


def test_what_is_significant_after_correction(fitted):
    after = {key for key, one in fitted.items() if one.p_holm < 0.05}
    assert after == {("dense", 3e12), *((m, b) for m in ("dense", "none") for b in (1e13, 3e13))}
    before = {key for key, one in fitted.items() if one.p < 0.05}
    assert before - after == {("none", 3e12), ("moe_fine", 1e13), ("moe_fine", 3e13)}


def test_the_paper_s_multipliers():
    """Of its lowest perplexities, with dense's joined by a line in ln C."""
    dense, peer = (23.71, 18.31), (20.63, 16.45)
    slope = math.log(dense[0] / dense[1]) / math.log(2e19 / 6e18)
    at = [math.exp(math.log(d / p) / slope) for d, p in zip(dense, peer, strict=True)]
    assert [f"{value:.2f}" for value in at] == ["1.91", "1.65"]
    said = PAPER.read_text()
    assert "1.91 at 6e18 and 1.65 at 2e19" in said
    assert "(dense 23.71 and 18.31, PEER 20.63 and 16.45)" in said


@pytest.mark.parametrize(("document", "command", "numbers"), CLAIMS)
def test_a_claim_s_command_prints_its_numbers(
    document, command, numbers, tmp_path, capsys, monkeypatch
):
    words = shlex.split(command.strip("`"))
    short = dict(re.findall(r"`([A-Z])` is\s+`(python -m [^`]+)`", document.read_text()))
    if words[0] in short:
        words = shlex.split(short[words[0]]) + words[1:]
    assert words[:2] == ["python", "-m"]
    monkeypatch.chdir(ROOT)
    if words[2] == "analysis":
        assert analysis([*words[3:], "--out", str(tmp_path)]) == 0
    else:
        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.delitem(sys.modules, words[2], raising=False)  # else runpy warns
        runpy.run_module(words[2], run_name="__main__")
    printed = " ".join(capsys.readouterr().out.split())
    for number in numbers.split(", "):
        assert number in printed, number


@pytest.mark.parametrize(
    "said",
    [
        "0.096 (0.056 to 0.135) and 0.070 (0.030 to 0.110)",
        "0.004 (-0.022 to 0.029)",
        "-0.081 (-0.107 to -0.056)",
        "-0.058 (-0.083 to -0.032)",
        "-0.012 (-0.045 to 0.021) at 3e12",
        "30 to 37 % of",
    ],
)
def test_what_no_command_prints_is_the_first_edition_s(said):
    """Whose tests hold it to the records."""
    ours, first = text("docs/study.md"), text("results/study/first.md")
    assert said in ours
    assert all(part in first for part in said.split(" and "))


def test_the_figure_is_there_and_its_numbers_are_those_of_the_records(fitted):
    assert (RESULTS / "contrast" / "contrast_multipliers.png").read_bytes().startswith(b"\x89PNG")
    lines = (RESULTS / "contrast" / "contrast.csv").read_text().splitlines()
    head, *rows = (line.split(",") for line in lines)
    read = [dict(zip(head, cells, strict=True)) for cells in rows]
    own = {float(row["budget"]): row for row in read if row["layer"] == "peer"}
    for budget in SEEDED:
        one = fitted["none", budget]
        assert float(own[budget]["difference"]) == pytest.approx(one.value.value, abs=1e-6)
        assert float(own[budget]["multiplier"]) == pytest.approx(one.multiplier.value, rel=1e-5)
