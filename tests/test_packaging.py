"""Wheel brings conf/ along and composes from anywhere; the checkout does too."""

import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement

from experiments.__main__ import commands
from experiments.config.paths import conf_dir
from tests.conftest import REPOSITORY, python


def test_a_checkout_uses_its_own_conf():
    assert conf_dir() == REPOSITORY / "conf"


def test_the_two_malicious_releases_of_lightning_are_excluded(project):
    """GHSA-w37p-236h-pfx3: 2.6.2 and 2.6.3 steal credentials when they are imported."""
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [r for group in groups for r in map(Requirement, group) if "lightning" in r.name]
    assert wanted
    for requirement in wanted:
        accepted = requirement.specifier.filter(["2.6.1", "2.6.2", "2.6.3", "2.6.4"])
        assert list(accepted) == ["2.6.1", "2.6.4"]


def test_training_is_an_extra_that_others_bring(project):
    extras = project["optional-dependencies"]
    base = {Requirement(text).name for text in project["dependencies"]}
    train = {Requirement(text).name for text in extras["train"]}
    assert {"torch", "lightning", "hydra-core", "omegaconf", "wandb"} <= train
    assert not base & train
    brought = {r.name: r.extras for r in map(Requirement, extras["dev"])}["expert-isoflops"]
    shown = {"tensorboard", "trackio"}
    assert {"train", "hub", "hf", "peft", "search", "dask"} | shown == brought
    alone = [name for name, group in extras.items() if not any("[train" in r for r in group)]
    assert set(alone) == {"train", "parquet", "docs"}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_one_console_script_has_all_commands(project):
    """A command is a file at the top of src/experiments with a main; and the analysis is one."""
    files = (REPOSITORY / "src" / "experiments").glob("[!_]*.py")
    assert project["scripts"] == {"experiments": "experiments.__main__:main"}
    assert list(commands()) == [*sorted(path.stem for path in files), "analysis"]
    assert all(commands().values())


def test_the_citation_is_of_this_release(project):
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"message", "title", "authors", "references"} <= set(citation)


def test_hooks_and_hosted_ci_run_what_is_run_here():
    makefile = (REPOSITORY / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["entry"].removesuffix(" --force-exclude") in makefile
    hosted = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    assert hosted["jobs"]["run"]["steps"][-1]["run"].endswith(" .ci/run")
    assert "secrets." not in str(hosted)
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """(the wheel's file names, the folder it is installed in, an environment that finds it)."""
    tmp_path = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    wheel_folder, site = tmp_path / "wheels", tmp_path / "site"
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheel_folder]
    subprocess.run([*build, REPOSITORY], check=True)
    (wheel,) = wheel_folder.glob("*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}  # before the editable install's path
    return zipfile.ZipFile(wheel).namelist(), site, environment


def test_each_command_of_the_console_script_starts(installed, project, tmp_path):
    """Each is loaded and called in one process; and the script itself."""
    _, site, environment = installed
    assert [path.name for path in (site / "bin").iterdir()] == ["experiments"]
    code = (
        "import sys; from experiments.__main__ import commands, main\n"
        "for name in commands():\n"
        "    sys.argv = ['experiments', name, '--version']\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, name\n"
    )

    def printed(*words):
        done = python(*words, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    one = printed(site / "bin" / "experiments", "--version")
    every = printed("-c", code)
    assert len(every) == len(commands())
    for line in one + every:
        assert line.startswith(f"expert-isoflops {project['version']} (Python 3.")


def test_a_wheel_composes_and_plans_from_any_folder(installed, tmp_path):
    names, site, environment = installed
    assert "experiments/conf/model/peer.yaml" in names
    assert "hydra_plugins/experiments_sweep.py" in names
    assert {"experiments/py.typed", "analysis/py.typed"} <= set(names)
    assert not [n for n in names if n.startswith(("tests", "results")) or n.endswith(".ipynb")]
    code = (
        "import runpy; from experiments.config.paths import conf_dir; print(conf_dir()); "
        "runpy.run_module('experiments.run', run_name='__main__')"
    )
    words = ("-m", "model=dense,peer", "dry_run=true")
    done = python("-c", code, *words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{site / 'experiments' / 'conf'}\n")
    assert "2 runs" in done.stdout
