"""bench status: a command that fails or is late is named, and is exit code 1."""

import pytest

from experiments import bench
from experiments.benchmarks import status


@pytest.mark.parametrize(
    ("code", "limit", "verdict"),
    [
        ("pass", 60.0, "ok"),
        ("import time; time.sleep(0.2)", 0.1, "missed"),
        ("raise SystemExit('torn')", 60.0, "failed: torn"),
    ],
)
def test_a_command_is_held_to_its_limit(code, limit, verdict, capsys):
    command = status._Command(name="it", words=("-c", code), limit=limit, repeats=1)
    missed = status._measure([command], 10)
    assert missed == ([] if verdict == "ok" else ["it"])
    assert capsys.readouterr().out.splitlines()[1].endswith(verdict)


def test_the_exit_code_says_whether_all_was_in_time(monkeypatch, capsys):
    monkeypatch.setattr(status, "_commands", lambda folder: [])
    monkeypatch.setattr(status, "_measure", lambda commands, n: ["status"])
    with pytest.raises(SystemExit, match="1"):
        bench.main(["status", "--points", "1"])
    monkeypatch.setattr(status, "_measure", lambda commands, n: [])
    bench.main(["status", "--points", "1"])
