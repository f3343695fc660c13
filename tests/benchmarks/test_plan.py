"""bench plan: medians of turns beside the imports', and what fails is named."""

import json

import pytest

from experiments import bench
from experiments.benchmarks import plan
from tests.json_page import check


@pytest.fixture
def taken(monkeypatch):
    """Words of the processes that were measured, none of which ran."""
    words, seconds = [], iter([2.0, 3.0, 5.0, 2.0, 9.0, 5.0, 4.0, 3.0, 6.0])

    def measured(given, folder):
        words.append(given)
        return next(seconds), 2**28

    monkeypatch.setattr(plan, "_measured", measured)
    return words


def test_medians_are_printed_beside_the_imports_and_each_repeat_is_kept(taken, tmp_path, capsys):
    path = tmp_path / "plan.json"
    bench.main(["plan", "--points", "10,100", "--json", str(path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[0] for line in lines] == ["imports", "10", "100"]
    assert [line[1:3] for line in lines] == [["2.00", "1.00"], ["3.00", "1.50"], ["5.00", "2.50"]]
    assert lines[2][4:6] == ["30.0", "ms"]
    found = json.loads(path.read_text())
    check(found)
    assert found["arguments"][:3] == ["plan", "--points", "10,100"]
    assert [run["cpu_seconds"] for run in found["runs"]["10"]] == [3.0, 9.0, 3.0]
    assert "seed=range(10)" in taken[2]
    assert found["processor"]


def test_other_numbers_of_points_are_refused_before_anything_is_measured(taken, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["plan", "--points", "40,15"])
    assert end.value.code == 2
    assert "--points 15 is no multiple of 10" in capsys.readouterr().err
    assert not taken


def test_a_process_is_measured_and_a_failed_one_named(tmp_path):
    seconds, n_bytes = plan._measured(["-c", "sum(range(10**6))"], str(tmp_path))
    assert 0 < seconds < 20
    assert n_bytes > 2**20
    with pytest.raises(RuntimeError, match="failed: ValueError: it is late"):
        plan._measured(["-c", "raise ValueError('it is late')"], str(tmp_path))
