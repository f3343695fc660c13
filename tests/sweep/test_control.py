"""`cancel` ends this sweep's controllers, and nobody else."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict

import pytest

from experiments import cancel, collect, retry, status
from experiments.records.files import read_record
from experiments.sweep.control import FOLDER, controlling, stop_controllers
from experiments.sweep.states import read_states
from experiments.system import processes
from experiments.system.claims import read_events
from experiments.system.processes import identity
from tests.conftest import REPOSITORY, TINY

PATIENCE = 600  # seconds for a command, on a machine that does much else: none should need it


@pytest.fixture
def stranger():
    """A python that has nothing to do with the sweep."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def controller(tmp_path):
    """A python that has its controller's file open; and that file."""
    (tmp_path / FOLDER).mkdir()
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from experiments.sweep.control import controlling\n"
        "with controlling(Path(sys.argv[1])):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    (path,) = (tmp_path / FOLDER).iterdir()
    yield process, path
    process.kill()
    process.communicate()


def leave(sweep_dir, name, content):
    path = sweep_dir / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def test_a_stranger_with_a_controllers_number_is_let_be(tmp_path, stranger):
    ours = asdict(identity(stranger.pid))
    others = [{**ours, "start": ours["start"] - 1}, {**ours, "boot": "another"}]
    for before in others:
        path = leave(tmp_path, f"{socket.gethostname()}-{stranger.pid}", json.dumps(before))
        assert stop_controllers(tmp_path) == (0, [])
        assert not path.exists()  # nobody has it locked: its controller was killed
    assert stranger.poll() is None


def test_one_that_is_proven_is_told_to_end(tmp_path, controller):
    process, _ = controller
    assert stop_controllers(tmp_path) == (1, [])
    assert process.wait(10) == -signal.SIGTERM


def test_a_stranger_whose_identity_was_planted_is_let_be(tmp_path, stranger, capsys):
    text = json.dumps(asdict(identity(stranger.pid)))
    path = leave(tmp_path, f"{socket.gethostname()}-{stranger.pid}", text)
    path.chmod(0o644)
    assert stop_controllers(tmp_path) == (0, [])
    why = f"process {stranger.pid} is another user's, or does not have {path} open"
    assert capsys.readouterr().err == f"note: {why}; no process was signalled\n"
    assert stranger.poll() is None


@pytest.mark.parametrize("danger", ["mode", "owner", "link"])
def test_a_controller_s_file_that_others_can_write_ends_nobody(
    tmp_path, controller, capsys, danger
):
    process, path = controller
    if danger == "mode":
        path.chmod(0o664)
        why = "can be written by others (mode 664)"
    elif danger == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, -1)
        why = "belongs to another user (id 65534)"
    else:
        path.rename(tmp_path / "real")
        path.symlink_to(tmp_path / "real")
        why = "can't be read"
    assert stop_controllers(tmp_path) == (0, [])
    assert capsys.readouterr().err == f"note: {path} {why}; no process was signalled\n"
    assert process.poll() is None


@pytest.mark.parametrize("content", ["", "{}", "[]", "{", "\0"])
def test_what_proves_nothing_ends_nobody(tmp_path, stranger, capsys, content):
    path = leave(tmp_path, f"{socket.gethostname()}-{stranger.pid}", content)
    assert stop_controllers(tmp_path) == (0, [])
    assert capsys.readouterr().err == f"note: {path} can't be read; no process was signalled\n"
    assert stranger.poll() is None


def test_other_names_are_passed_over_and_other_hosts_named(tmp_path, capsys):
    leave(tmp_path, "vm-abc", "")
    leave(tmp_path, "7", "")
    leave(tmp_path, "node-3-77", "")
    assert stop_controllers(tmp_path) == (0, ["node-3"])
    assert capsys.readouterr().err.count("is not a controller's file; ignored\n") == 2


def test_without_proc_it_declines(tmp_path, monkeypatch, capsys, stranger):
    monkeypatch.setattr(processes, "_BOOT", tmp_path / "absent")
    text = json.dumps(asdict(identity(stranger.pid)))
    leave(tmp_path, f"{socket.gethostname()}-{stranger.pid}", text)
    assert stop_controllers(tmp_path) == (0, [])
    assert f"end it yourself (kill {stranger.pid})" in capsys.readouterr().err
    assert stranger.poll() is None


def test_the_file_lasts_as_long_as_the_sweep(tmp_path):
    with controlling(tmp_path):
        (path,) = (tmp_path / FOLDER).iterdir()
        assert json.loads(path.read_text()) == asdict(identity(os.getpid()))
    assert not path.exists()


def test_a_live_sweep_is_cancelled_and_retried_by_commands(tmp_path, command):
    """Off Slurm: run, cancel (and a second TERM while it waits), retry, status, collect."""
    sweep = tmp_path / "results" / "s"
    words = (
        "size=1", "sweep=s", "budget=2e10", "seed=0,1", "hydra.launcher.n_workers=1",
        "trainer.checkpoint_minutes=1e-3", *TINY,
        f"paths.results={sweep.parent}", f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"
    first = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", "-m", *words], cwd=REPOSITORY, text=True,
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not (running := [path.parent for path in sweep.glob("*/last.ckpt")]):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    worker = int(read_events(running[0])[0]["by"].rpartition(" ")[2])
    os.kill(worker, signal.SIGSTOP)  # or a fast one ends its run before the command asks it to
    code, out, err = command(cancel, "s", "--results", sweep.parent)
    assert (code, err) == (0, "")
    assert "1 local sweeps were asked to end" in out
    if first.poll() is None:
        first.send_signal(signal.SIGTERM)
    os.kill(worker, signal.SIGCONT)
    out, err = first.communicate(timeout=PATIENCE)
    assert "Traceback" not in out + err
    assert first.returncode == 130, err
    states = {p.run_id: p.state for p in read_states(sweep)}
    assert states.pop(running[0].name) == "interrupted"
    assert list(states.values()) == ["waiting"]
    assert list((sweep / FOLDER).iterdir()) == []

    code, _, err = command(retry, "s", "--results", sweep.parent)
    assert code == 0, err
    assert "2 done" in command(status, "s", "--results", sweep.parent)[1]
    assert command(collect, "s", "--results", sweep.parent)[0] == 0
    assert {read_record(p).status for p in sweep.glob("*/record.json")} == {"done"}
    with (sweep / "records.csv").open(newline="") as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"0", "1"}
