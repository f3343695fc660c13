"""What is kept of the machine, the packages and the code: small in a record, whole in a file."""

import importlib.metadata
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments.system import environment
from experiments.system.environment import describe, installed_packages, snapshot_environment


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one commit of two files, one of them in src."""
    folder = tmp_path / "checkout"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "a.py").write_text("a = 1\n")
    (folder / "b.txt").write_text("b\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "first")
    return folder


def git(folder, *arguments):
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_clean_checkout(checkout):
    found = snapshot_environment("cpu", checkout / "src")
    assert found["git_commit"] == git(checkout, "rev-parse", "HEAD")
    assert (found["git_dirty"], found["git_diff"]) == (False, "")


def test_the_diff_is_of_the_whole_checkout_and_can_be_applied(checkout):
    (checkout / "src" / "a.py").write_text("a = 2\n")
    (checkout / "b.txt").write_text("c\n")
    (checkout / "new.txt").write_text("untracked\n")
    git(checkout, "add", "b.txt")  # staged or not
    git(checkout, "config", "diff.relative", "true")
    git(checkout, "config", "color.diff", "always")
    found = snapshot_environment("cpu", checkout / "src")
    assert found["git_dirty"] is True
    git(checkout, "reset", "-q", "--hard")
    patch = checkout / "patch"
    patch.write_text(found["git_diff"])
    git(checkout, "apply", "patch")
    assert (checkout / "src" / "a.py").read_text() == "a = 2\n"
    assert (checkout / "b.txt").read_text() == "c\n"
    assert "untracked" not in found["git_diff"]


def test_a_new_untracked_file_is_not_dirt(checkout):
    (checkout / "notes").write_text("")
    assert describe("cpu", checkout)["git_dirty"] is False


def test_a_large_diff_is_cut_with_a_note(checkout, monkeypatch):
    (checkout / "b.txt").write_text("ü" * 1000)
    monkeypatch.setattr(environment, "_DIFF_BYTES", 501)
    diff = snapshot_environment("cpu", checkout)["git_diff"]
    kept, note = diff.split("\n[cut here: ")
    assert 500 <= len(kept.encode()) <= 501
    assert note.startswith(tuple("123456789"))
    assert note.endswith("bytes are left out]\n")


def test_text_that_is_not_utf8_is_no_error(checkout):
    (checkout / "b.txt").write_bytes(b"\xff\xfe caf\xe9\n")
    assert "caf" in snapshot_environment("cpu", checkout)["git_diff"]


@pytest.mark.parametrize("place", ["no checkout", "another's checkout", "no folder", "no commit"])
def test_no_checkout_of_the_code_is_none(checkout, tmp_path, place):
    folder = tmp_path / "plain"
    if place == "another's checkout":
        folder = checkout / "venv" / "site-packages"
    if place != "no folder":
        folder.mkdir(parents=True)
        (folder / "x.py").write_text("")
    if place == "no commit":
        git(folder, "init", "-q")
        git(folder, "add", ".")
    found = snapshot_environment("cpu", folder)
    assert (found["git_commit"], found["git_diff"]) == (None, None)
    assert found["git_dirty"] is (True if place == "no commit" else None)


def test_no_git_is_none(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = snapshot_environment("cpu", checkout)
    assert [found[k] for k in ("git_commit", "git_dirty", "git_diff")] == [None, None, None]


def test_every_package_is_listed_and_a_record_has_few(checkout):
    packages = snapshot_environment("cpu", checkout)["packages"]
    assert packages == installed_packages()
    names = list(packages)
    assert names == sorted(names, key=str.lower)
    assert packages["torch"] == importlib.metadata.version("torch")
    assert packages["pytest"] == pytest.__version__
    small = describe("cpu", checkout)
    assert len(json.dumps(small)) < 4000
    assert small["packages"].items() <= packages.items()
    assert "git_diff" not in small


def test_host_device_command_and_slurm(monkeypatch, checkout):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setattr(sys, "argv", ["experiments.run", "size=2"])
    found = snapshot_environment("cpu", checkout)
    assert (found["slurm_job_id"], found["slurm_array_task_id"]) == ("17", "3")
    assert found["command"] == ["experiments.run", "size=2"]
    assert found["host"] == socket.gethostname()
    assert found["device"]
    assert found["n_threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found
    monkeypatch.delenv("SLURM_JOB_ID")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    found = describe("cpu", Path(__file__).parent)
    assert (found["slurm_job_id"], found["slurm_array_task_id"]) == (None, None)


def test_environment_variables_are_not_kept(checkout, monkeypatch):
    """docs/sweeps.md says so: keys and tokens belong there."""
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hush-hush")
    assert "hush-hush" not in json.dumps(snapshot_environment("cpu", checkout / "src"))
