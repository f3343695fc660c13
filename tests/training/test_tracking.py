"""W&B's own offline file is read back; its failures are survived."""

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
import warnings

import pytest

from experiments.config.schema import Logger
from experiments.execute import execute
from experiments.point import make_point
from experiments.records import read_record
from experiments.training.tracking import WandbRun, has_key, resolve_mode, tags_of
from tests.conftest import REPOSITORY, TINY

OFFLINE = Logger(wandb="offline", project="p", entity=None, log_every_n_steps=10)


def start(folder, settings=OFFLINE):
    return WandbRun(
        settings, run_id="abc123", sweep="s", model="peer", folder=folder, config={"size": 2}
    )


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a key."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_offline_file_holds_config_rows_and_summary(tmp_path):
    from tests.wandb_file import read_wandb

    run = start(tmp_path)
    for step in range(3):
        run.log({"n_tokens": 100 * step, "loss": 7.0 - step})
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


def test_no_key_is_offline_and_asks_nothing(nobody):
    assert not has_key()
    assert resolve_mode("auto") == "offline"


def test_a_key_without_a_network_is_offline(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard: nothing listens
    assert has_key()
    assert resolve_mode("auto") == "offline"


def test_the_users_own_mode_is_kept(nobody, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolve_mode("auto") == "disabled"
    assert resolve_mode("offline") == "offline"


def test_a_failing_wandb_warns_once_and_is_left_alone(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.warns(UserWarning, match=r"W&B logging stopped: .*; training goes on"):
        run = start(blocked)  # a folder can't be made where a file is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log({"n_tokens": 1})
        run.finish({})


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
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("when", ["before", "in mid-run"])
def test_a_full_folder_loses_no_record(compose_raw, tmp_path, small_disk, when):
    point = make_point(
        compose_raw(
            "model=peer",
            "n_experts=64",
            "size=2",
            "budget=2e9",
            *[o for o in TINY if not o.startswith("logger")],
            "logger.wandb=offline",
            "logger.log_every_n_steps=1",
            "trainer.n_threads=1",
            f"paths.results={tmp_path / 'results'}",
            f"paths.cache={tmp_path / 'cache'}",
        )
    )
    disk = point.run_dir / "wandb"
    small_disk(disk)

    def fill(row=None):
        with contextlib.suppress(OSError):  # W&B has taken some of it meanwhile: full all the same
            (disk / "filling").write_bytes(bytes(shutil.disk_usage(disk).free))

    if when == "before":
        fill()
    with pytest.warns(UserWarning, match=r"W&B logging stopped: OSError.*No space left on device"):
        record = execute(point, fill if when == "in mid-run" else lambda row: None)
    assert record.status == "done", record.error
    assert read_record(point.run_dir / "record.json") == record
    lines = (point.run_dir / "history.csv").read_text().splitlines()
    assert len(lines) == record.n_steps + 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_disk_that_filled_unnoticed_is_told_at_the_end(tmp_path, monkeypatch):
    """W&B's process drops what it can't write and says nothing."""
    monkeypatch.setattr("experiments.training.tracking._FULL", 2**60)
    run = start(tmp_path)
    run.log({"n_tokens": 1})
    with pytest.warns(UserWarning, match=r"W&B's file lacks rows, for .* no space left in .*wandb"):
        run.finish({})


def run_script(folder, signal):
    """A run whose W&B process gets a signal in mid-run, then another run; its process, seconds."""
    script = f"""
        import os, signal, subprocess, sys, time
        from pathlib import Path
        from experiments.training import tracking
        from experiments.config.schema import Logger
        tracking._CALL_PATIENCE = tracking._FINISH_PATIENCE = 2.0
        def start(name):
            return tracking.WandbRun(
                Logger(wandb="offline", project="p", entity=None, log_every_n_steps=10),
                run_id=name, sweep="s", model="m", folder=Path(sys.argv[1]), config={{}},
            )
        run = start("first")
        run.log({{"n_tokens": 1}})
        run._service.send_signal(signal.{signal})
        time.sleep(0.2)
        for i in range(6000):  # more than the socket to it holds
            run.log({{"n_tokens": i}})
        time.sleep(0.2)
        run.log({{"n_tokens": 7000}})
        run.finish({{"val_loss": 1.0}})
        run = start("second")
        run.log({{"n_tokens": 1}})
        run.finish({{"val_loss": 2.0}})
        print("finished")
    """
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal", "why"), [("SIGKILL", "Connection"), ("SIGSTOP", "no answer for 2 s")]
)
def test_a_dead_or_hanging_wandb_is_one_warning(tmp_path, signal, why):
    from tests.wandb_file import read_wandb

    done, seconds = run_script(tmp_path, signal)
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr
    assert done.stderr.count("W&B logging stopped") == 1
    assert why in done.stderr
    assert "Traceback" not in done.stderr  # W&B's own, from a hook at the program's end
    assert seconds < 30
    (path,) = tmp_path.glob("wandb/offline-run-*-second/run-*.wandb")
    assert read_wandb(path).summary["val_loss"] == 2.0


def test_a_start_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.tracking._START_PATIENCE", 0.2)
    monkeypatch.setattr("wandb.init", lambda **_: time.sleep(5))
    with pytest.warns(UserWarning, match=r"W&B logging stopped: no answer for 0\.2 s"):
        run = start(tmp_path)
    run.log({"n_tokens": 1})
    run.finish({})


def test_an_exit_asked_for_by_wandb_is_no_exit(tmp_path, monkeypatch):
    def leave(**_):
        raise SystemExit(3)

    monkeypatch.setattr("wandb.init", leave)
    with pytest.warns(UserWarning, match=r"W&B logging stopped: SystemExit\(3\)"):
        start(tmp_path)


def test_tags_say_what_varies(compose_raw):
    tags = tags_of(compose_raw("model=peer", "ladder=paper", "data=c4", "size=8", "budget=6e18"))
    assert tags == ["ladder=paper", "data=c4", "size=8", "n_experts=1048576", "budget=6e+18"]
    assert tags_of(compose_raw())[:2] == ["ladder=cpu", "data=WikiText2"]
    (tag,) = tags_of({"ladder": {"name": "x" * 99}})
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
        python = f"{REPOSITORY / 'src'}"
        return subprocess.run(
            [*command, f"BIN={tools}", "wandb-sync", *arguments],
            cwd=tmp_path,
            env={**os.environ, "WANDB_API_KEY": key, "PYTHONPATH": python},
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.slow
def test_sync_uploads_every_offline_run(sync, tmp_path):
    names = {f"results/{s}/{r}/wandb/offline-run-1-{r}" for s, r in ("ab", "ac", "de")}
    for name in names:
        (tmp_path / name).mkdir(parents=True)
    done = sync()
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {"sync", *names}
    assert set(sync("SWEEP=d").stdout.split()) == {"sync", "results/d/e/wandb/offline-run-1-e"}


@pytest.mark.slow
def test_sync_without_a_key_or_runs_says_so_in_a_line(sync):
    done = sync(key="")
    assert done.returncode != 0
    assert done.stderr.startswith("no W&B key")
    done = sync("SWEEP=nothing")
    assert done.returncode == 0
    assert done.stdout == "no offline W&B runs in results/nothing\n"
