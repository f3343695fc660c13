"""The copy of the code that a sweep runs."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.sweep.snapshot import take_snapshot
from experiments.system.environment import SNAPSHOT_DIFF, SNAPSHOT_NAME, git_diff


@pytest.mark.slow
def test_a_snapshot_is_the_code_and_runs(sweep):
    folder = take_snapshot(sweep)
    assert folder == take_snapshot(sweep)
    copy = folder / "src" / "experiments" / "run.py"
    assert copy.read_bytes() == (Path(experiments.__file__).parent / "run.py").read_bytes()
    assert set(json.loads((folder / SNAPSHOT_NAME).read_text())) == {"git_commit", "git_dirty"}
    code = (
        "import experiments, pathlib\n"
        "import experiments.config.paths as p, experiments.system.environment as e\n"
        "here = pathlib.Path(experiments.__file__).parent\n"
        "print(here, p.conf_dir(), p.sbatch_dir(), e.git_state(here)['git_commit'])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"},
        cwd=sweep,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    commit = json.loads((folder / SNAPSHOT_NAME).read_text())["git_commit"]
    assert out == [str(p) for p in (copy.parent, folder / "conf", folder / "sbatch", commit)]


@pytest.mark.slow
def test_a_snapshot_s_diff_is_for_its_owner_alone(sweep, monkeypatch):
    monkeypatch.setattr("experiments.sweep.snapshot.git_diff", lambda _: "- old\n+ token\n")
    folder = take_snapshot(sweep)
    holding = [path for path in folder.iterdir() if path.is_file() and "token" in path.read_text()]
    assert [path.name for path in holding] == [SNAPSHOT_DIFF]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert git_diff(folder / "src" / "experiments") == "- old\n+ token\n"
    holding[0].unlink()
    assert git_diff(folder / "src" / "experiments") is None
