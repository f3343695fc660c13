"""docs/study.md and README: the answer, and each claim by the command that is named beside it."""

import math
import runpy
import shlex
import sys

import pytest

from analysis.__main__ import main as analysis
from analysis.contrast.compute import contrast
from analysis.contrast.parts import contrast_parts
from analysis.table.load import load_table
from analysis.table.sources import read_source
from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, SEEDED, document_table, text
from tests.study.estimators import CLASSES, JOINT, by_curves, by_means

PAPER = ROOT / "docs" / "study.md"
NAMES = {"dense": "dense", "no layer": "none", "`moe_fine`": "moe_fine", "PKM": "pkm"}
CLAIMS = document_table("claim", PAPER)[1]


@pytest.fixture(scope="module")
def fitted():
    """Baseline and budget: PEER's difference, by curves that are fitted together."""
    table = load_table(RESULTS / "isoflop", where=JOINT)
    found = contrast(table, layers=["peer"], classes=CLASSES)
    return {(d.baseline, round(d.budgets[0], -10)): d for d in found.differences}


def shown(estimate, form):
    return "{} ({} to {})".format(*(format(value, form) for value in estimate))


@pytest.mark.parametrize("document", [PAPER, ROOT / "README.md"])
def test_the_answer(fitted, document):
    _, rows = document_table("PEER minus", document)
    assert [name for name, *_ in rows] == list(NAMES)
    for name, *cells, saves in rows:
        own = [fitted[NAMES[name], budget] for budget in SEEDED]
        assert cells == [shown(one.value, ".3f") for one in own]
        assert saves == shown(own[1].multiplier, ".2f")


def test_what_is_significant_after_correction(fitted):
    after = {key for key, one in fitted.items() if one.p_holm < 0.05}
    assert after == {("dense", 3e12), *((m, b) for m in ("dense", "none") for b in (1e13, 3e13))}
    before = {key for key, one in fitted.items() if one.p < 0.05}
    assert before - after == {("none", 3e12), ("moe_fine", 1e13), ("moe_fine", 3e13)}


def test_other_estimators(fitted, seeds):
    _, rows = document_table("PEER minus dense, by", PAPER)
    others = [
        [str(by["peer", "dense", b]) for b in SEEDED] for by in (by_means(seeds), by_curves())
    ]
    together = [shown(fitted["dense", b].value, ".3f") for b in SEEDED]
    assert [cells for _, *cells in rows] == [together, *others]


def test_the_paper_s_multipliers():
    """Of its lowest perplexities, with dense's joined by a line in ln C."""
    dense, peer = (23.71, 18.31), (20.63, 16.45)
    slope = math.log(dense[0] / dense[1]) / math.log(2e19 / 6e18)
    at = [math.exp(math.log(d / p) / slope) for d, p in zip(dense, peer, strict=True)]
    assert [f"{value:.2f}" for value in at] == ["1.91", "1.65"]
    said = PAPER.read_text()
    assert "1.91 at 6e18 and 1.65 at 2e19" in said
    assert "(dense 23.71 and 18.31, PEER 20.63 and 16.45)" in said


@pytest.mark.parametrize(("command", "numbers"), [row[1:] for row in CLAIMS[:-1]])
def test_a_claim_s_command_prints_its_numbers(command, numbers, tmp_path, capsys, monkeypatch):
    words = shlex.split(command.strip("`"))
    if words[0] == "A":
        (given,) = (line for line in PAPER.read_text().splitlines() if "analysis contrast" in line
                    and line.startswith("`python"))  # fmt: skip
        words = shlex.split(given.strip("`.")) + words[1:]
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
    ours, first = (text(f"docs/{name}.md") for name in ("study", "study_first"))
    assert said in ours
    assert all(part in first for part in said.split(" and "))


def test_the_second_edition_s_first_stage(fitted):
    """By its runs alone: curves of later stages share their curvature."""
    folder = RESULTS / "edition_2"
    found = contrast_parts(
        load_table(folder, where={"budget": [1e13]}),
        read_source(folder).documents,
        by="targets",
        rates=RESULTS / "rates_2" / "rates.json",
        layers=["peer"],
        classes=CLASSES,
    )
    own = {(row.difference.baseline, row.part): row.difference for row in found.rows}
    _, rows = document_table("At 1e13, PEER minus", PAPER)
    assert [name for name, *_ in rows] == list(NAMES)
    for name, *cells in rows:
        model = NAMES[name]
        each = [fitted[model, 1e13], own[model, "all"], own[model, "new"]]
        assert cells == [shown(one.value, ".3f") for one in each]
        assert (own[model, "all"].p_holm < 0.05) is (model in ("dense", "none"))


def test_how_much_of_the_second_edition_is_done():
    done = [read_record(path) for path in find_records(RESULTS / "edition_2")]
    assert not any(r.environment["git_dirty"] for r in done)
    said = " ".join(PAPER.read_text().split())
    assert f"Of its 62 main runs (`experiment=study_main_2`) {len(done)} are done." in said


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
