"""W&B's own offline file is read back; its failures are survived."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from experiments.config.schema import Logger
from experiments.records.files import read_record
from experiments.training.execute import execute
from experiments.training.trackers.tracker import TrackedRun
from experiments.training.trackers.weights_and_biases import (
    has_key,
    make_tags,
    resolve_mode,
    start_wandb,
)
from tests.conftest import REPOSITORY

OFFLINE = Logger(wandb="offline", project="p", entity=None, log_every_n_steps=10)


def start(folder, settings=OFFLINE):
    run = TrackedRun(run_id="abc123", sweep="s", model="peer", folder=folder, config={"size": 2})
    return start_wandb(settings, run)


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a key and a proxy."""
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC", *proxies):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_offline_file_holds_config_rows_and_summary(tmp_path):
    from tests.wandb_file import read_wandb

    run = start(tmp_path)
    for step in range(3):
        run.log({"step": step, "n_tokens": 100 * step, "loss": 7.0 - step})
    run.finish({"val_loss": 4.5})
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    found = read_wandb(path)
    assert found.run_id == "abc123"
    assert (found.group, found.job_type, found.project) == ("s", "peer", "p")
    assert found.config["size"] == 2
    assert found.tags == ["size=2"]
    assert [row["loss"] for row in found.history] == [7.0, 6.0, 5.0]
    assert [row["n_tokens"] for row in found.history] == [0, 100, 200]
    assert found.summary["val_loss"] == 4.5


def test_without_a_key_or_a_network_it_is_offline_and_asks_nothing(nobody, monkeypatch):
    assert not has_key()
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nothing listens
    assert has_key()
    assert resolve_mode("auto") == "offline"


def test_auto_is_online_where_a_proxy_is_in_reach(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.invalid")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert resolve_mode("auto") == "online"


def test_the_users_own_mode_is_kept(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("offline") == "offline"


def test_a_failing_wandb_warns_once_and_is_left_alone(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    run = start(blocked)  # a folder can't be made where a file is
    with pytest.warns(UserWarning, match=r"W&B logging stopped: .*Error.*; training goes on"):
        run.finish({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log({"step": 1, "n_tokens": 1})
        run.finish({})


@pytest.mark.parametrize("name", ["wandb", "wandb/offline-run-1"])
def test_a_link_out_of_its_folder_is_not_written_through(tmp_path, name):
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    with pytest.warns(UserWarning, match=rf"W&B logging stopped: .*{name} is a link.*; training"):
        run = start(tmp_path / "run")
    run.finish({})
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def small_disk(tmp_path):
    """disk(folder): mounts 64 KiB there, which root may outside most containers."""
    mounted = []

    def mount(folder):
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("can't mount a tmpfs here")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        for _ in range(50):  # what was killed closes its files a moment later
            if not subprocess.run(["umount", str(folder)], capture_output=True).returncode:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"{folder} is in use")


@pytest.mark.parametrize("when", ["before", "in mid-run"])
def test_a_full_folder_loses_no_record(make, small_disk, when):
    each = ("logger.wandb=offline", "logger.log_every_n_steps=1")
    point = make("model=peer", "n_experts=64", *each)
    disk = point.run_dir / "wandb"
    small_disk(disk)

    def fill(row=None):
        with contextlib.suppress(OSError):  # W&B has taken some of it meanwhile: full all the same
            (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free))

    if when == "before":
        fill()
    said = r"W&B logging stopped: OSError.*No space left on device"
    if when == "in mid-run":  # on a busy machine W&B finds it out at the end alone
        said += "|W&B's file lacks rows, for there is no space left"
    with pytest.warns(UserWarning, match=said):
        record = execute(point, fill if when == "in mid-run" else lambda row: None)
    assert record.status == "done", record.error
    assert read_record(point.run_dir / "record.json") == record
    lines = (point.run_dir / "history.csv").read_text().splitlines()
    assert len(lines) == record.n_steps + 1


def test_a_disk_that_filled_unnoticed_is_told_at_the_end(tmp_path, monkeypatch):
    """W&B's process drops what it can't write and says nothing."""
    monkeypatch.setattr("experiments.training.trackers.tracker._FULL", 2**60)
    run = start(tmp_path)
    run.log({"step": 1, "n_tokens": 1})
    with pytest.warns(UserWarning, match=r"W&B's file lacks rows, for .* no space left in .*wandb"):
        run.finish({})


SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from experiments.config.schema import Logger
    from experiments.training.trackers import tracker
    from experiments.training.trackers.weights_and_biases import start_wandb

    def start(name):
        return start_wandb(
            Logger(wandb="offline", project="p", entity=None, log_every_n_steps=10),
            tracker.TrackedRun(
                run_id=name, sweep="s", model="m", folder=Path(sys.argv[1]), config={}
            ),
        )

    def processes(run):  # ours, that owns the run, and W&B's own
        ours = run._guest.pid
        return ours, int(Path(f"/proc/{ours}/task/{ours}/children").read_text())

    run = start("first")
    run.log({"step": 1, "n_tokens": 1})
    assert run._guest.wait(60) and run._guest.error is None, run._guest.error
"""


def call(rest, folder):
    """Runs a process that has a W&B run with one row, and does the rest; how it ended."""
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(rest)
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def rows(folder, name="first"):
    from tests.wandb_file import read_wandb

    (path,) = folder.glob(f"wandb/offline-run-*-{name}/run-*.wandb")
    return read_wandb(path)


@pytest.mark.parametrize("whose", ["ours", pytest.param("W&B's", marks=pytest.mark.night)])
@pytest.mark.parametrize("signal", [pytest.param("SIGKILL", marks=pytest.mark.night), "SIGSTOP"])
def test_a_dead_or_hanging_wandb_is_one_warning(tmp_path, signal, whose):
    rest = f"""
        tracker._PATIENCE = 2.0
        both = processes(run)
        os.kill(both[{["ours", "W&B's"].index(whose)}], signal.{signal})
        time.sleep(0.2)
        begin = time.monotonic()
        for i in range(6000):  # more than the pipe to it holds, or its socket
            run.log({{"step": i, "n_tokens": i}})
        assert time.monotonic() - begin < 10, "training waited"
        time.sleep(2.2)
        run.log({{"step": 7000, "n_tokens": 7000}})
        run.finish({{"val_loss": 1.0}})
        for pid in both:
            end = time.monotonic() + 20
            while Path(f"/proc/{{pid}}").exists() and time.monotonic() < end:
                state = Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0]
                if state in "ZX":
                    break
                time.sleep(0.05)
            else:
                assert not Path(f"/proc/{{pid}}").exists(), "left behind"
        tracker._PATIENCE = 60.0
        run = start("second")
        run.log({{"step": 1, "n_tokens": 1}})
        run.finish({{"val_loss": 2.0}})
        print("finished")
    """
    done = call(rest, tmp_path)
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr
    assert done.stderr.count("W&B logging stopped") == 1
    ours_died = (signal, whose) == ("SIGKILL", "ours")
    assert ("ended with -9" in done.stderr) == ours_died
    assert ("no answer for 2 s" in done.stderr) == (signal == "SIGSTOP")
    assert "Traceback" not in done.stderr
    assert rows(tmp_path, "second").summary["val_loss"] == 2.0


def test_signals_that_end_the_training_do_not_end_its_logging(tmp_path):
    """A terminal sends INT and HUP to its whole group, Slurm TERM and USR1 to a job's processes."""
    rest = """
        ours, theirs = processes(run)
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
            os.killpg(0, number)
            os.kill(ours, number)
        time.sleep(0.5)
        run.log({"step": 2, "n_tokens": 2})
        run.finish({"val_loss": 3.0})
    """
    done = call(rest, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(tmp_path)
    assert [row["n_tokens"] for row in found.history] == [1, 2]
    assert found.summary["val_loss"] == 3.0


def test_a_killed_training_leaves_its_rows_and_no_process(tmp_path):
    rest = """
        for i in range(2, 300):
            run.log({"step": i, "n_tokens": i})
        print(*processes(run), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = call(rest, tmp_path)
    assert done.returncode == -9, done.stderr
    end = time.monotonic() + 60
    while any(alive(int(pid)) for pid in done.stdout.split()):
        assert time.monotonic() < end, "an orphan lives on"
        time.sleep(0.1)
    assert [row["n_tokens"] for row in rows(tmp_path).history] == [*range(1, 300)]


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch):
    """fake_wandb("body of init"): what the process that owns the run imports as wandb."""

    def make(body):
        folder = tmp_path / "fake"
        folder.mkdir()
        (folder / "wandb.py").write_text(
            f"def Settings(**_): pass\ndef init(**arguments):\n    {body}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return make


def test_a_start_that_hangs_is_given_up(tmp_path, monkeypatch, fake_wandb):
    monkeypatch.setattr("experiments.training.trackers.tracker._PATIENCE", 0.2)
    fake_wandb("import time; time.sleep(600)")
    run = start(tmp_path)
    time.sleep(0.3)
    with pytest.warns(UserWarning, match=r"W&B logging stopped: no answer for 0\.2 s"):
        run.log({"step": 1, "n_tokens": 1})
    run.log({"step": 2, "n_tokens": 2})
    run.finish({})


def test_an_exit_asked_for_by_wandb_is_no_exit(tmp_path, fake_wandb):
    fake_wandb("raise SystemExit(3)")
    run = start(tmp_path)
    with pytest.warns(UserWarning, match=r"W&B logging stopped: SystemExit\(3\)"):
        run.finish({})


def test_wandb_notes_down_the_training_and_not_the_process_that_logs_it(tmp_path):
    run = start(tmp_path)
    run.finish({})
    found = rows(tmp_path, "abc123")
    assert found.args == sys.argv[1:]
    assert "wandb_owner" not in found.program
    assert found.program


def test_tags_say_what_varies(compose_raw):
    tags = make_tags(compose_raw("model=peer", "ladder=paper", "data=c4", "size=8", "budget=6e18"))
    assert tags == ["ladder=paper", "data=c4", "size=8", "n_experts=1048576", "budget=6e+18"]
    assert make_tags(compose_raw())[:2] == ["ladder=cpu", "data=WikiText2"]
    (tag,) = make_tags({"ladder": {"name": "x" * 99}})
    assert tag == "ladder=" + "x" * 57  # 64 characters


@pytest.fixture
def sync(tmp_path, nobody):
    """sync("SWEEP=a"): make wandb-sync in tmp_path with a wandb that prints its arguments."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(sys.executable)
    (tools / "wandb").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tools / "wandb").chmod(0o755)
    command = ["make", "-s", "-f", str(REPOSITORY / "Makefile"), "-o", ".venv/.ready"]

    def call(*arguments, key="0" * 40):
        own = {"WANDB_API_KEY": key, "PYTHONPATH": f"{REPOSITORY / 'src'}"}
        return subprocess.run(
            [*command, f"BIN={tools}", "wandb-sync", *arguments], cwd=tmp_path,
            env=os.environ | own, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call


def test_sync_uploads_every_offline_run(sync, tmp_path):
    names = {f"results/{s}/{r}/wandb/offline-run-1-{r}" for s, r in ("ab", "ac", "de")}
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    done = sync()
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"sync", *names}
    assert set(sync("SWEEP=d").stdout.split()) == {"sync", "results/d/e/wandb/offline-run-1-e"}


def test_sync_without_a_key_or_runs_says_so_in_a_line(sync):
    done = sync(key="")
    assert done.returncode != 0
    assert done.stderr.startswith("no W&B key")
    done = sync("SWEEP=nothing")
    assert done.returncode == 0
    assert done.stdout == "no offline W&B runs in results/nothing\n"
