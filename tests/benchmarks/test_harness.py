import json
import re
from statistics import median

import pytest

from experiments import bench
from tests.conftest import TINY
from tests.json_page import check


def test_prints_a_run_s_own_cost(capsys, tmp_path):
    overrides = ["size=1", *TINY, "logger.log_every_n_steps=5", f"paths.cache={tmp_path}"]
    kept = tmp_path / "kept.json"
    bench.main(["harness", "--steps", "20", "--json", str(kept), *overrides])
    head, line = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == [
        "microseconds of a step",
        "run",
        "bare loop",
        "own cost",
        "of the run",
    ]
    whole, bare, own, share = re.fullmatch(
        r"the run +([\d,]+) +([\d,]+) +(-?[\d,]+) +(-?[\d.]+)%", line
    ).groups()
    assert all(int(value.replace(",", "")) > 0 for value in (whole, bare))
    assert float(share) == pytest.approx(
        100 * int(own.replace(",", "")) / int(whole.replace(",", "")), abs=0.2
    )
    written = json.loads(kept.read_text())
    check(written)
    (found,) = written["models"]
    assert len(found["run_seconds"]) == len(found["bare_seconds"]) == 3
    assert f"{1e6 * median(found['run_seconds']):,.0f}" == whole
    assert f"{1e6 * median(found['bare_seconds']):,.0f}" == bare


def test_too_few_steps_are_refused(tmp_path):
    overrides = ["size=1", *TINY, f"paths.cache={tmp_path}"]
    with pytest.raises(SystemExit):
        bench.main(["harness", "--steps", "20", *overrides])
