"""Contracts on imports: what is planted against them is caught, third parties' packages too."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.records.files import CHECKPOINT_NAME
from tests.conftest import REPOSITORY, python

TRAIN = ("torch", "lightning", "wandb", "hydra", "omegaconf", "tokenizers", "transformers")


RUN = REPOSITORY / "results" / "growth" / "square" / "050cc19912e6"
BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAIN}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


PLANTED = [  # a file, a line, and how the linter names it
    ("analysis/numbers.py", "import torch", "analysis.numbers -> torch"),
    (
        "analysis/numbers.py",
        "from experiments.records.kept import release",
        "analysis.numbers -> experiments.records.kept",
    ),
    (
        "src/experiments/records/record.py",
        "import omegaconf",
        "experiments.records.record -> omegaconf",
    ),
    (
        "src/experiments/system/json_files.py",
        "import wandb",
        "experiments.system.json_files -> wandb",
    ),
]


def test_imports_that_are_planted_are_caught(tmp_path):
    """In a copy of the packages and of the contracts."""
    for name in ("src", "analysis"):
        ignored = shutil.ignore_patterns("__pycache__", "*.ipynb")
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for place, line, _ in PLANTED:
        with (tmp_path / place).open("a") as file:
            file.write(f"\n{line}\n")
    path = f"{tmp_path / 'src'}{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "300"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    broken = [line for line in done.stdout.splitlines() if " BROKEN" in line]
    assert sorted(line[:22] for line in broken) == [
        "analysis and records n",
        "analysis reads records",
    ]
    for _, _, arrow in PLANTED:
        assert f"{arrow} (l." in done.stdout, done.stdout + done.stderr


def without_train(code, *words):
    """Python in a process where no package of [train] can be imported."""
    return python("-c", BLOCKED + code, *words)


def test_the_analysis_needs_no_package_of_training(tmp_path):
    code = "from analysis.__main__ import main; raise SystemExit(main())"
    study = REPOSITORY / "results" / "study" / "isoflop"
    done = without_train(code, "isoflop", study, "--brief", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Minima of the fitted curves" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "evaluate",
        "generate",
        "export",
        "inspect",
        "inspect patch",
        "inspect ablate",
        "bench layer",
        "bench gpu",
    ],
)
def test_a_command_that_needs_torch_says_in_one_line_which_extra_to_install(command, tmp_path):
    module, *question = command.split()
    code = f"import runpy; runpy.run_module('experiments.{module}', run_name='__main__')"
    run, new = tmp_path / "run", tmp_path / "new.json"
    shutil.copytree(RUN, run)  # one that is there as a whole: what lacks is refused first
    (run / CHECKPOINT_NAME).touch()
    words = {
        **dict.fromkeys(("evaluate", "generate", "export"), (run, new)),
        "inspect": (run,),
        "inspect patch": (run, new, "remove=[0]"),
        "inspect ablate": (run, "experts=[0]"),
    }
    done = without_train(code, *question, *words.get(command, ()))
    assert done.returncode == 1
    assert done.stderr.endswith(
        " is not installed, which this command needs: pip install -e '.[train]' in a clone of the "
        "repository\n"
    )
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["status", "cancel", "collect"])
def test_commands_that_only_read_need_none_of_it(command):
    code = f"import runpy; runpy.run_module('experiments.{command}', run_name='__main__')"
    done = without_train(code, "--help")
    assert done.returncode == 0, done.stderr
