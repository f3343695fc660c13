"""The wheel brings conf/ along and composes from anywhere; the checkout does too."""

import os
import subprocess
import sys
import zipfile

import pytest

from experiments.paths import conf_dir
from tests.conftest import REPOSITORY


def test_a_checkout_uses_its_own_conf():
    assert conf_dir() == REPOSITORY / "conf"


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
    where = [sys.executable, "-c", "from experiments.paths import conf_dir; print(conf_dir())"]
    found = subprocess.run(where, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(site / "experiments" / "conf")
