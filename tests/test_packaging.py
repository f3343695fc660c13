"""The wheel brings conf/ along and composes from anywhere; the checkout does too."""

import os
import subprocess
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement

from experiments.config.paths import conf_dir
from tests.conftest import REPOSITORY


def test_a_checkout_uses_its_own_conf():
    assert conf_dir() == REPOSITORY / "conf"


def test_the_two_malicious_releases_of_lightning_are_excluded():
    """GHSA-w37p-236h-pfx3: 2.6.2 and 2.6.3 steal credentials when they are imported."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = [r for group in groups for r in map(Requirement, group) if "lightning" in r.name]
    assert wanted
    for requirement in wanted:
        accepted = requirement.specifier.filter(["2.6.1", "2.6.2", "2.6.3", "2.6.4"])
        assert list(accepted) == ["2.6.1", "2.6.4"]


@pytest.mark.slow
def test_a_wheel_composes_and_plans_from_any_folder(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    wheel_folder, site = tmp_path / "wheels", tmp_path / "site"
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheel_folder]
    subprocess.run([*build, REPOSITORY], check=True)
    (wheel,) = wheel_folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "experiments/conf/model/peer.yaml" in names
    assert "hydra_plugins/experiments_sweep.py" in names
    assert not [n for n in names if n.startswith(("tests", "results")) or n.endswith(".ipynb")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}  # before the editable install's path
    command = [sys.executable, "-m", "experiments.run", "-m", "model=dense,peer", "dry_run=true"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 runs" in done.stdout
    where = [
        sys.executable,
        "-c",
        "from experiments.config.paths import conf_dir; print(conf_dir())",
    ]
    found = subprocess.run(where, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(site / "experiments" / "conf")
