"""Disks: full and enlarged, read-only, without locks; a folder that is moved away."""

import errno
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.soak.faults import fault
from tests.soak.stage import ELSEWHERE, PATIENCE
from tests.soak.trials import Trial, last_line

_PAGE = 4096
_LOCKS = {getattr(fcntl, name) for name in dir(fcntl) if "SETLK" in name or "GETLK" in name}


@fault("full disk", "storage", "alone", "sweep", weight=3)
def full_disk(trial: Trial) -> None:
    """The results are on a file system that fills up, and is enlarged after that."""
    results, stage = trial.stage.results, trial.stage
    if not mount_tmpfs(trial, results):
        return
    used = sum(_pages(path) for path in results.rglob("*"))
    room = int(2 ** trial.rng.uniform(1, 8.5))
    mount("-o", f"remount,size={(used + room) * _PAGE}", str(results))
    process = stage.start()
    code = process.wait(PATIENCE)
    output = process.output.read_text(errors="replace")
    records = [path.read_text(errors="replace") for path in results.rglob("record.json")]
    mount("-o", "remount,size=512m", str(results))
    if code and any("no space left" in text.lower() for text in (output, *records)):
        trial.injected("full disk", f"{4 * room} KB left -> {code}")
    elif code and code not in (130, ELSEWHERE):  # runs of a killed controller go on
        trial.injected("full disk", f"{4 * room} KB left -> {code}")
        trial.wrong(f"a full disk, and the reason is not given: {last_line(process.output)}")


@fault("read-only disk", "storage", "alone", "sweep")
def read_only(trial: Trial) -> None:
    """Between two commands: it is refused in a line."""
    results = trial.stage.results
    results.mkdir(exist_ok=True)
    if os.geteuid() or not mount("--bind", str(results), str(results)):
        trial.skip("read-only disk", "needs root, and mount")
        return
    try:
        if not mount("-o", "remount,bind,ro", str(results)):
            trial.skip("read-only disk", "this file system can't be bound read-only")
            return
        process = trial.stage.start()
        code = process.wait(PATIENCE)
    finally:
        umount(results)
    if code == 0:  # all was done before
        return
    trial.injected("read-only disk", f"-> {code}")
    output = process.output.read_text(errors="replace")
    if code not in (1, 2) or "Traceback" in output:
        trial.wrong(f"read-only: exit code {code}, {last_line(process.output)}")


@fault("no locks", "storage", "alone", "sweep")
def no_locks(trial: Trial) -> None:
    """A file system without flock, as some of NFS are: a warning, and the run."""
    marker = trial.stage.folder / f"no-locks-{trial.stage.n_started}"

    def deny(*arguments: object) -> None:
        marker.touch()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def before() -> None:
        usual = fcntl.fcntl
        fcntl.flock = fcntl.lockf = deny
        fcntl.fcntl = lambda file, command, *rest: (
            deny() if command in _LOCKS else usual(file, command, *rest)
        )

    process = trial.stage.start(before)
    code = process.wait(PATIENCE)
    if marker.exists():
        trial.injected("no locks", f"-> {code}")
        if code:
            trial.wrong(f"without flock: exit code {code}, {last_line(process.output)}")


@fault("folder moved away", "storage", "alone")
def moved(trial: Trial) -> None:
    """While its run writes into it: that run ends, and nothing appears at the old place."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    run_dir = trial.stage.run_dir
    away = run_dir.with_name("away")  # on the same file system, which may be one of ours
    if not (trial.stage.is_claimed() and process.poll() is None):
        process.wait(PATIENCE)
        return
    run_dir.rename(away)
    code = process.wait(PATIENCE)
    trial.injected("folder moved away", f"after {moment:.3f} s -> {code}")
    if run_dir.exists():
        names = sorted(path.name for path in run_dir.iterdir())
        trial.wrong(f"the moved folder was made again, with {names}")
        shutil.rmtree(run_dir)
    away.rename(run_dir)


def mount_tmpfs(trial: Any, folder: Path) -> bool:
    """A file system in memory, at a folder whose files move into it; taken down after the trial."""
    if os.path.ismount(folder):
        return True
    aside = folder.with_name("aside")
    if folder.exists():
        folder.rename(aside)
    folder.mkdir()
    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=512m", "soak", str(folder)):
        trial.skip("full disk", "needs root, and mount")
        folder.rmdir()
        if aside.exists():
            aside.rename(folder)
        return False
    if aside.exists():
        shutil.copytree(aside, folder, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(aside)

    def take_down() -> None:
        shutil.copytree(folder, aside, symlinks=True)
        umount(folder)
        folder.rmdir()
        aside.rename(folder)

    trial.cleanups.append(take_down)
    return True


def _pages(path: Path) -> int:
    return 1 if path.is_dir() else -(-path.stat().st_size // _PAGE)


def mount(*arguments: str) -> bool:
    """Whether the system takes it."""
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


def umount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)


def unmount_below(folder: Path) -> None:
    """What trials that were killed have left mounted."""
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        place = Path(line.split()[1])
        if place.is_relative_to(folder):
            umount(place)
