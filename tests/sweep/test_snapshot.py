"""Copy of the code that a sweep runs."""

import json
import stat
from pathlib import Path

import pytest

import experiments
from experiments.sweep.snapshot import take_snapshot
from experiments.system import code_copy
from experiments.system.code_copy import DIFF_NAME, STATE_NAME
from experiments.system.environment import git_diff
from tests.conftest import python

SOURCE = Path(experiments.__file__).parent


def test_a_snapshot_is_the_code_and_runs(sweep):
    folder = take_snapshot(sweep)
    assert folder == take_snapshot(sweep)
    copy = folder / "src" / "experiments" / "run.py"
    stubs = [p.relative_to(SOURCE) for p in SOURCE.rglob("*.pyi")]  # lazy packages read theirs
    assert stubs
    assert all((copy.parent / stub).is_file() for stub in stubs)
    assert copy.read_bytes() == (Path(experiments.__file__).parent / "run.py").read_bytes()
    assert set(json.loads((folder / STATE_NAME).read_text())) == {"git_commit", "git_dirty"}
    code = (
        "import experiments, pathlib\n"
        "import experiments.config.paths as p, experiments.system.environment as e\n"
        "here = pathlib.Path(experiments.__file__).parent\n"
        "print(here, p.conf_dir(), p.sbatch_dir(), e.git_state(here)['git_commit'])"
    )
    environment = {"PYTHONPATH": str(folder / "src"), "PATH": "/usr/bin:/bin"}
    out = python("-c", code, env=environment, cwd=sweep).stdout.split()
    commit = json.loads((folder / STATE_NAME).read_text())["git_commit"]
    assert out == [str(p) for p in (copy.parent, folder / "conf", folder / "sbatch", commit)]


def test_a_snapshot_s_diff_is_for_its_owner_alone(sweep, monkeypatch):
    monkeypatch.setattr("experiments.sweep.snapshot.git_diff", lambda _: "- old\n+ token\n")
    folder = take_snapshot(sweep)
    holding = [path for path in folder.iterdir() if path.is_file() and "token" in path.read_text()]
    assert [path.name for path in holding] == [DIFF_NAME]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert git_diff(folder / "src" / "experiments") == "- old\n+ token\n"
    holding[0].unlink()
    assert git_diff(folder / "src" / "experiments") is None


def plant(copy, damage):
    """Changes a copy as a loss of power or another's hand does; the words that name the file."""
    execute = copy / "src" / "experiments" / "training" / "execute.py"
    if damage == "emptied":
        execute.write_text("")
        return f"its files are not those that its name is the hash of: {execute} is empty"
    if damage == "altered":
        execute.write_text("raise SystemExit('planted')\n")
        return "its files are not those that its name is the hash of"
    if damage == "state":
        (copy / STATE_NAME).write_text("")
        return f"{copy / STATE_NAME} can't be read"
    added = copy / "src" / {"beside": "torch.py", "compiled": "experiments/execute.so"}[damage]
    added.write_text("")
    return f"{added} does not belong to it"


def test_what_is_beside_a_copy_is_seen_in_a_folder_of_any_name(tmp_path):
    copy = take_snapshot(tmp_path / "__pycache__" / "sweep")
    assert code_copy.find_damage(copy) is None
    (copy / "src" / "torch.py").write_text("")
    assert code_copy.find_damage(copy).endswith("torch.py does not belong to it")


def test_other_files_with_the_same_name_are_not_taken_for_this_code(sweep, monkeypatch, capsys):
    """The 12 digits of a name are found again with days of computing, the first one at once."""
    monkeypatch.setattr(code_copy, "_DIGITS", 1)
    copy = take_snapshot(sweep)
    execute = copy / "src" / "experiments" / "training" / "execute.py"
    for i in range(200):
        execute.write_text(f"raise SystemExit('planted')  # {i}\n")
        if code_copy.find_damage(copy) is None:
            break
    assert code_copy.find_damage(copy) is None
    assert "planted" not in (take_snapshot(sweep) / execute.relative_to(copy)).read_text()
    assert "not run, and made again" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["emptied", "altered", "state", "beside", "compiled"])
def test_a_copy_that_is_not_what_its_name_says_is_set_aside_and_made_again(sweep, capsys, damage):
    copy = take_snapshot(sweep)
    cached = copy / "src" / "experiments" / "__pycache__" / "execute.cpython-311.pyc"
    cached.parent.mkdir()
    cached.write_bytes(b"planted")
    assert code_copy.find_damage(copy) is None
    assert take_snapshot(sweep) == copy
    assert not cached.exists()  # Python would run it in place of the file
    assert capsys.readouterr().err == ""
    why = plant(copy, damage)
    assert take_snapshot(sweep) == copy
    assert code_copy.find_damage(copy) is None
    aside = f"{copy.name}.damaged"
    assert capsys.readouterr().err == (
        f"warning: the copy of the code {copy} is damaged ({why}); it is kept as {aside}, not run, "
        "and made again\n"
    )
    assert {path.name for path in copy.parent.glob("[!.]*")} == {copy.name, aside}


def test_a_link_to_a_copy_is_not_followed(sweep, tmp_path, capsys):
    copy = take_snapshot(sweep)
    copy.rename(tmp_path / copy.name)
    copy.symlink_to(tmp_path / copy.name)
    assert take_snapshot(sweep) == copy
    assert not copy.is_symlink()
    assert f"({copy} is a link)" in capsys.readouterr().err


def test_a_task_does_not_run_a_damaged_copy(sweep):
    copy = take_snapshot(sweep)
    why = plant(copy, "emptied")
    environment = {"PYTHONPATH": str(copy / "src"), "PATH": "/usr/bin:/bin"}
    words = ("-m", "experiments.sweep.task", sweep / "slurm" / "now.json", "0")
    done = python(*words, env=environment)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: the copy of the code {copy} is damaged ({why}); the command that started the "
        "sweep, or retry, makes it again and submits the point again\n"
    )
