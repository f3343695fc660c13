"""`report` on some of a sweep's runs: what it says of them, and while it works."""

import math
import re

import pytest

from analysis.__main__ import main
from tests.analysis.hand_made import write_run


@pytest.fixture(scope="module")
def report(tmp_path_factory, few_draws):
    """Three sizes each of two models with their own learning rate, of which one is asked for."""
    folder = tmp_path_factory.mktemp("sweep")
    for model, lr in (("dense", 0.125), ("peer", 0.375)):
        for size in (1, 2, 3):
            loss = 4 + 0.1 * math.log(size / 2) ** 2
            more = {"config": {"optim": {"lr": lr}}, "run_id": f"{model}{size}"}
            more["environment"] = {"command": ["run.py", f"model={model}"], "device": f"of {model}"}
            write_run(folder, model, 6e11, size, size * 100_000, loss, **more)
    (folder / "peer3" / "record.json").write_text("{")
    capture = pytest.MonkeyPatch()
    said = []
    capture.setattr("sys.stderr.write", said.append)
    code = main(["report", str(folder), "--where", "model=dense"])
    capture.undo()
    page = re.sub(r"<[^>]*>", " ", (folder / "report.html").read_text())
    return code, folder, "".join(said), " ".join(page.split())


def test_only_the_runs_asked_for_tell_how_they_were_made(report):
    code, _, _, page = report
    assert code == 0
    assert "peak learning rate: 0.125" in page
    assert "peak learning rate: varies" not in page
    assert "of dense" in page
    assert "of peer" not in page
    assert "model=peer" not in page


def test_the_checklist_names_damaged_records(report):
    _, folder, said, page = report
    line = f"left out: 1 of 6 records are damaged: {folder / 'peer3' / 'record.json'} ("
    assert said.startswith(f"warning: {line}")
    assert line in page.partition("What the table left open")[2]


def test_each_stage_is_a_line(report):
    _, folder, said, _ = report
    lines = said.splitlines()[1:]
    assert all(re.match(r"\[ *\d+ s\] ", line) for line in lines)
    steps = [line.partition("] ")[2] for line in lines]
    assert steps[0] == f"3 runs of {folder}"
    assert steps[1:3] == ["fitting: isoFLOP curves", "fitting: agreement"]
    kinds = [step.partition(":")[0] for step in steps[1:]]
    assert kinds == sorted(kinds, reverse=True), "all is fitted before anything is drawn"
    assert {"drawing: isoflop_together", "drawing: residuals_isoflop"} <= set(steps)
