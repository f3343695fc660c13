"""docs/first-hour.md: its commands, with an sbatch that submits nothing, print what it shows."""

import re
import shlex

import pytest

from experiments.sweep import many_runs
from tests.conftest import REPOSITORY

TEXT = (REPOSITORY / "docs" / "first-hour.md").read_text()
SHOWN = re.findall(r"^\$ python -m experiments\.run (.*)\n((?:.+\n)+?)```", TEXT, re.MULTILINE)


@pytest.fixture
def sbatch(programs):
    """Slurm's commands, as far as a submission needs them; sbatch keeps its arguments there."""
    keep = 'printf "%s\\n" "$@" >$0.asked; echo 28'
    return programs(sbatch=keep, squeue=":") / "sbatch.asked"


def pattern(shown):
    """Lines, of which ... stands for any."""
    lines = [r"(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in shown]
    return "".join(lines)


@pytest.mark.parametrize(("words", "shown"), SHOWN, ids=[w.split("sweep=")[1] for w, _ in SHOWN])
def test_a_command_prints_what_is_shown(run, sbatch, monkeypatch, words, shown):
    monkeypatch.setattr(many_runs, "prepare_all", lambda points: None)  # the text of a network
    code, out, err = run(*shlex.split(words))
    assert (code, err) == (0, "")
    assert re.fullmatch(pattern(shown.splitlines()), out), out
    submitted = "dry_run" not in words
    assert sbatch.exists() == submitted
    if submitted:
        asked = sbatch.read_text().split()
        for name in ("gpus_per_node", "cpus_per_task", "time"):
            if found := re.search(rf"hydra\.launcher\.{name}=(\S+)", words):
                assert f"--{name.replace('_', '-')}={found[1]}" in asked


def test_every_step_has_a_command():
    assert len(SHOWN) == 6
