"""What is written down of a card, and how it reads."""

import json
import math

import pytest

from experiments.gpu.goals import NONE_DIFFERS, Goal, data_sheet
from experiments.gpu.report import (
    DONE,
    FAILED,
    JSON_NAME,
    TEXT_NAME,
    Measurement,
    Report,
    card_folder,
)

GOAL = Goal(at_least=0.5, at_most=2)


@pytest.fixture
def report(tmp_path):
    made = Report(
        tmp_path / "card", {"card": "A card", "toy": False, "torch": "2", "commit": "0123456789"}
    )
    made.begin("kernels")
    return made


@pytest.mark.parametrize(
    ("value", "met"), [(0.5, True), (2, True), (0.49, False), (2.1, False), (math.nan, False)]
)
def test_a_goal_is_a_range(value, met):
    assert GOAL.met(value) is met
    assert Measurement(name="x", value=value, goal=GOAL).met is met
    assert Measurement(name="x", value=value).met is None


def test_each_number_is_on_disk_at_once(report):
    for n in range(1, 4):
        report.add("kernels", Measurement(name=f"number {n}", value=n, unit="ms"))
        content = json.loads((report.folder / JSON_NAME).read_text())
        assert len(content["parts"]["kernels"]["measurements"]) == n
        assert f"| number {n} | {n} ms |" in (report.folder / TEXT_NAME).read_text()
    assert not list(report.folder.glob("*.partial"))


def test_a_goal_stands_beside_its_number(report):
    report.add("kernels", Measurement(name="a", value=3, goal=GOAL, anchor="theirs: 1"))
    report.add("kernels", Measurement(name="b", value=1, goal=GOAL))
    report.add("kernels", Measurement(name="c", value=7))
    text = (report.folder / TEXT_NAME).read_text()
    assert "| a | 3 | ≥ 0.5, ≤ 2 | **no** | theirs: 1 |" in text
    assert "| b | 1 | ≥ 0.5, ≤ 2 | yes |  |" in text
    assert "| kernels | running |  | 1 of 2 | 0123456 |" in text
    assert [row.split(" | ")[1] for row in report.table()[2:]] == ["a", "b"]


def test_a_part_that_found_something_wrong_has_failed(report):
    report.add("kernels", Measurement(name="bits", value=1, goal=NONE_DIFFERS))
    report.end("kernels", DONE, 1.0)
    assert report.parts["kernels"]["status"] == FAILED
    assert report.parts["kernels"]["why"] == "wrong: bits"


def test_a_missed_speed_is_no_failure(report):
    report.add("kernels", Measurement(name="speed", value=3, goal=GOAL))
    report.end("kernels", DONE, 1.0)
    assert Report(report.folder).parts["kernels"]["status"] == DONE


def test_no_number_is_valid_json_and_missed(report):
    report.add("kernels", Measurement(name="a", value=math.nan, goal=GOAL))
    report.add("kernels", Measurement(name="b", value=math.inf, goal=GOAL))
    values = [m["value"] for m in Report(report.folder).parts["kernels"]["measurements"]]
    assert values == ["nan", "inf"]
    assert (report.folder / TEXT_NAME).read_text().count("**no**") == 2


def test_a_part_keeps_the_commit_that_it_was_measured_at(report):
    report.end("kernels", DONE, 1.0)
    later = Report(report.folder, {"card": "A card", "commit": "fedcba9876"})
    later.begin("layer")
    commits = {name: part["commit"] for name, part in Report(report.folder).parts.items()}
    assert commits == {"kernels": "0123456789", "layer": "fedcba9876"}


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / JSON_NAME).write_text("[1]")
    with pytest.raises(ValueError, match=r"report.json is not a report .*; remove it"):
        Report(tmp_path)


def test_names_of_cards():
    assert card_folder("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert data_sheet("NVIDIA H100 80GB HBM3") == 989e12
    assert data_sheet("NVIDIA H100 PCIe") == 756e12
    assert data_sheet("a card of 2031") is None
