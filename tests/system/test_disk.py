"""A disk that is full or refuses: the message, the files that stay, and resuming later."""

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.system import processes
from experiments.system.claims import RunningElsewhereError, claimed, log_event, read_events
from experiments.system.command import exit_codes
from experiments.system.disk import (
    abandoned,
    check_writable,
    explained,
    remove_leftovers,
    temporary_name,
    write_text_atomically,
)
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY, python


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(compose_raw, cache, tmp_path):
    def point():
        paths = (f"paths.results={tmp_path}", f"paths.cache={cache}")
        fixed = ("model=dense", "size=2", "budget=1e9")
        return make_point(compose_raw(*fixed, *TINY, *paths))

    return point


@pytest.fixture(scope="module")
def expected(compose_raw, cache, tmp_path_factory):
    """Record of the same run on a disk without faults."""
    paths = (f"paths.results={tmp_path_factory.mktemp('whole')}", f"paths.cache={cache}")
    fixed = ("model=dense", "size=2", "budget=1e9")
    return execute(make_point(compose_raw(*fixed, *TINY, *paths)))


class FullDisk:
    """Opening a file below `folder` for writing fails while `full` says so of its path."""

    def __init__(self, monkeypatch, folder, full):
        plain = {os: os.open, Path: Path.open}

        def check(path, writes):
            path = Path(path)
            if writes and folder in path.parents and full(path):
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

        def os_open(path, flags, *arguments, **keywords):
            check(path, flags & (os.O_WRONLY | os.O_RDWR))
            return plain[os](path, flags, *arguments, **keywords)

        def path_open(self, mode="r", *arguments, **keywords):
            check(self, any(letter in mode for letter in "wax+"))
            return plain[Path](self, mode, *arguments, **keywords)

        monkeypatch.setattr(os, "open", os_open)
        monkeypatch.setattr(Path, "open", path_open)


@pytest.mark.parametrize("name", ["last.partial", "history.csv", ".config.yaml"])
def test_a_full_disk_is_a_failed_record_that_says_so_and_the_run_goes_on(
    make, expected, monkeypatch, name
):
    point = make()
    with monkeypatch.context() as patch:
        FullDisk(patch, point.run_dir, lambda path: path.name.startswith(name))
        record = execute(point)
    assert record == read_record(point.run_dir / "record.json")
    assert record.status == "failed"
    path = point.run_dir / name.removeprefix(".")
    assert record.error.strip().splitlines()[-1] == (
        f"RuntimeError: {path} can't be written: No space left on device; free some space on that "
        "disk, and run the same command again: it goes on from the last checkpoint"
    )
    known = {".claim", "config.yaml", "environment.json", "events.jsonl", "history.csv"}
    assert {path.name for path in point.run_dir.iterdir()} <= known | {"record.json"}
    assert execute(make()).val_loss == expected.val_loss


def test_a_disk_without_room_for_the_record_is_one_line(make, monkeypatch):
    point = make()
    with monkeypatch.context() as patch:
        FullDisk(patch, point.run_dir, lambda path: path.name != ".claim")
        with (
            pytest.warns(UserWarning, match=r"events.jsonl lacks 'started': No space left on dev"),
            pytest.raises(RuntimeError, match=r"no record could be .*config.yaml can't be"),
        ):
            execute(point)
    assert [path.name for path in point.run_dir.iterdir()] == [".claim"]


def test_a_record_that_does_not_fit_is_written_by_the_next_command(make, expected, monkeypatch):
    point = make()
    with monkeypatch.context() as patch:
        FullDisk(patch, point.run_dir, lambda path: path.name.startswith(".record.json"))
        with pytest.raises(RuntimeError, match=r"record.json can't be written: No space") as error:
            execute(point)
    assert "\n" not in str(error.value)
    result = execute(make())
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)


LEFTOVERS = (
    ".progress.json.sjb41531", ".config.yaml.0a1b2c3d", ".record.json.________", "last.partial",
    ".environment.json.abcdefgh", ".history.csv.12345678",
)  # fmt: skip


def test_what_killed_writers_left_is_removed_by_who_holds_the_run(make):
    point = make()
    point.run_dir.mkdir(parents=True)
    kept = [point.run_dir / name for name in ("notes.txt", ".hidden", ".record.json.bak")]
    for path in (*kept, *(point.run_dir / name for name in LEFTOVERS)):
        path.write_text("")
    with claimed(point.run_dir), pytest.raises(RunningElsewhereError):
        execute(point)
    assert {path.name for path in point.run_dir.iterdir()} >= set(LEFTOVERS)
    execute(point)
    names = {path.name for path in point.run_dir.iterdir()}
    assert not names & set(LEFTOVERS)
    assert names >= {path.name for path in kept} | {LAST, "record.json"}


def test_a_folder_with_the_name_of_a_leftover_is_left(tmp_path):
    (tmp_path / "last.partial").mkdir()
    remove_leftovers(tmp_path)
    assert (tmp_path / "last.partial").is_dir()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask_and_private_ones_their_own(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text_atomically(tmp_path / "shared", "a")
        write_text_atomically(tmp_path / "private", "a", mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"shared": 0o666 & ~umask, "private": 0o600}


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EDQUOT, "free some space"),
        (errno.EROFS, "make it writable"),
        (errno.EIO, "correct that path"),
    ],
)
def test_the_remedy_is_that_of_the_reason(tmp_path, number, remedy):
    with (
        pytest.raises(RuntimeError, match=rf"a can't be written: .*; {remedy}.* run the same comm"),
        explained(tmp_path / "a"),
    ):
        raise OSError(number, os.strerror(number))


def test_a_command_says_the_reason_once(tmp_path, capsys):
    with pytest.raises(SystemExit), exit_codes(), explained(tmp_path / "a", "then"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'a'} can't be written: No space left on device; free some space on "
        "that disk, then\n"
    )


def test_a_journal_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "events.jsonl").mkdir()
    with pytest.warns(UserWarning, match=r"events.jsonl lacks 'done': Is a directory"):
        log_event(tmp_path, "done")
    (tmp_path / "events.jsonl").rmdir()
    assert read_events(tmp_path) == []


def test_a_worker_without_a_log_says_why_on_the_terminal(make):
    point = make()
    point.run_dir.parent.mkdir(parents=True)
    point.run_dir.write_text("a file where the run's folder should be")
    code = f"from experiments.sweep.workers import _work; _work({dict(point.raw)!r}, 1, None)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = python("-c", code, env=environment)
    assert done.returncode == 1
    line = f"error: {point.run_dir / 'log.txt'} can't be written: File exists"
    assert done.stderr.strip().splitlines()[-1].startswith(line)
    assert "Traceback" not in done.stderr


def test_a_folder_that_was_moved_away_is_not_made_again(tmp_path):
    with pytest.raises(RuntimeError, match="can't be written: No such file or directory"):
        write_text_atomically(tmp_path / "gone" / "history.csv", "step")
    assert not list(tmp_path.iterdir())


def killed_in(folder, code):
    """Runs Python that ends itself by kill -9, with `folder` as sys.argv[1]."""
    assert python("-c", code, folder, cwd=REPOSITORY).returncode == -9


WRITE = """
import os, signal, sys
from pathlib import Path
from experiments.system.disk import write_text_atomically
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
write_text_atomically(Path(sys.argv[1]) / "library.json", "{}")
"""


CHECK = """
import os, signal, sys
from pathlib import Path
from experiments.system import disk
class Kill:
    def __index__(self):
        os.kill(os.getpid(), signal.SIGKILL)
disk._BLOCK = Kill()
disk.check_writable(Path(sys.argv[1]) / "results" / "s")
"""


def test_a_killed_check_leaves_nothing(tmp_path):
    killed_in(tmp_path, CHECK)
    assert list(tmp_path.iterdir()) == []


def test_commands_that_begin_at_once_do_not_take_each_others_new_folder(tmp_path):
    folder = tmp_path / "results" / "s"

    def look(_):
        for _ in range(100):
            check_writable(folder)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(look, range(4)))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results").write_text("a file")
    with pytest.raises(RuntimeError, match=r"s can't be written: .*; correct that path"):
        check_writable(folder)


def test_what_a_killed_writer_left_goes_when_the_same_file_is_written_again(tmp_path):
    path = tmp_path / "library.json"
    killed_in(tmp_path, WRITE)
    (left,) = tmp_path.iterdir()
    assert abandoned(path) == [left]
    mine = temporary_name(path)
    others = tmp_path / f"{left.name.rpartition('-')[0].rpartition('-')[0]}-00000000-00000000"
    unknown = tmp_path / ".library.json.new-notes"
    for kept in (mine, others, unknown):
        kept.write_text("")
    write_text_atomically(tmp_path / "other.json", "{}")
    assert left.exists()
    write_text_atomically(path, "{}")
    # one of this process, one of a machine that can't be asked, and one that is no writer's
    assert set(tmp_path.iterdir()) == {path, tmp_path / "other.json", mine, others, unknown}
    remove_leftovers(tmp_path)
    assert not mine.exists()


def test_a_mark_of_a_process_that_is_there_or_unknown_has_not_ended():
    own = processes.mark()
    assert not processes.has_ended(own)
    token, pid, start, host, boot = own.split("-")
    assert processes.has_ended(f"{token}-{pid}-{int(start) - 1}-{host}-{boot}")
    assert processes.has_ended(f"{token}-{pid}-{start}-{host}-00000000")  # started again since
    assert not processes.has_ended(f"{token}-{pid}-{int(start) - 1}-00000000-{boot}")
    for text in ("", "0a1b2c3d", "x" * 50):
        assert not processes.has_ended(text)
