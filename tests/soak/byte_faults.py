"""Files that are damaged between two commands: each of those that a run reads back."""

import shutil
import signal
from pathlib import Path

from tests.soak.faults import fault
from tests.soak.stage import PATIENCE
from tests.soak.trials import Trial

HOWS = ("bit", "bits", "cut", "empty", "gone", "garbage", "tail")
_OF_RUN = (
    "last.ckpt", "last.ckpt", "previous.ckpt", "history.csv", "history.csv", "events.jsonl",
    "progress.json", "config.yaml", "environment.json", ".claim",
)  # fmt: skip


@fault("damaged file", "bytes", "alone", "sweep", weight=6)
def damaged_file(trial: Trial) -> None:
    """Of a run that was interrupted before."""
    folder = trial.rng.choice(trial.stage.run_dirs)
    if not (folder / "last.ckpt").exists():
        _interrupt(trial)
    if (folder / "record.json").exists():  # nothing else of a finished run is read again
        damaged_record(trial)
        return
    for name in trial.rng.sample(_OF_RUN, trial.rng.choice((1, 1, 2))):
        what = damage(folder / name, trial.rng.choice(HOWS), trial)
        if what:
            trial.injected(f"damaged {name}", what)


@fault("damaged record.json", "bytes", "alone", "sweep", weight=2)
def damaged_record(trial: Trial) -> None:
    """Of a finished run: it is set aside, and written again from the checkpoint."""
    trial.stage.start().wait(PATIENCE)
    what = damage(trial.stage.run_dir / "record.json", trial.rng.choice(HOWS), trial)
    if what:
        trial.injected("damaged record.json", what)
        trial.n_done += 1
        n = len(trial.files)
        trial.files.add("record.json.damaged" + (f"-{n + 1}" if n else ""))


@fault("damaged manifest.jsonl", "bytes", "alone", "sweep")
def damaged_manifest(trial: Trial) -> None:
    """After a command, finished or not."""
    if not (trial.stage.sweep_dir / "manifest.jsonl").exists():
        _interrupt(trial)
    what = damage(trial.stage.sweep_dir / "manifest.jsonl", trial.rng.choice(HOWS), trial)
    if what:
        trial.injected("damaged manifest.jsonl", what)


@fault("damaged data", "bytes", "alone", weight=3)
def damaged_data(trial: Trial) -> None:
    """A file that training reads: refused before the first step, by name; or not read at all."""
    stage = trial.stage
    if stage.cache == stage.points.data:
        stage.cache = stage.folder / "cache"
        shutil.copytree(stage.points.data, stage.cache)
    if trial.rng.random() < 0.5:
        _interrupt(trial)
    files = [path for path in stage.cache.rglob("*") if path.is_file() and path.stat().st_size]
    if not files:  # a folder of its own, and a run that was done before it read any
        return
    path = trial.rng.choice(sorted(files))
    whole = path.read_bytes()
    before = _trained(stage.run_dir)
    what = damage(path, trial.rng.choice(HOWS[:-1]), trial)
    process = stage.start()
    code = process.wait(PATIENCE)
    path.write_bytes(whole)
    if not what or code == 0:  # harmless, or done before; the comparison will tell
        return
    trial.injected("damaged data", f"{path.name} {what} -> {code}")
    output = process.output.read_text(errors="replace")
    record = stage.run_dir / "record.json"
    output += record.read_text(errors="replace") if record.exists() else ""
    if path.name not in output:
        trial.wrong(f"{path.name} {what}: the message doesn't name it: {output.strip()[-300:]}")
    if _trained(stage.run_dir) != before:
        trial.wrong(f"{path.name} {what}: steps were made with it")


@fault("damaged search.journal", "journal", "search")
def damaged_journal(trial: Trial) -> None:
    """Refused by name, and right again once it is restored; or as if nothing had happened."""
    path = trial.stage.sweep_dir / "search.journal"
    if not path.exists():
        _interrupt(trial)
    whole = path.read_bytes() if path.exists() else b""
    what = damage(path, trial.rng.choice(HOWS), trial)
    if not what:
        return
    process = trial.stage.start()
    code = process.wait(PATIENCE)
    trial.injected("damaged search.journal", f"{what} -> {code}")
    output = process.output.read_text(errors="replace")
    if code and ("Traceback" in output or path.name not in output):
        trial.wrong(f"{path.name} {what}: {output.strip()[-300:]}")
    if code:
        path.write_bytes(whole)


def damage(path: Path, how: str, trial: Trial) -> str | None:
    """Changes a file in place; says how, or None if it is as before."""
    if not path.exists():
        return None
    before, rng = path.read_bytes(), trial.rng
    trial.trusted &= path.suffix != ".ckpt"
    if how == "gone":
        path.unlink()
        return how
    after = bytearray(before)
    place = rng.randrange(len(before)) if before else 0
    if how in ("bit", "bits") and before:
        for _ in range(1 if how == "bit" else rng.randrange(2, 20)):
            after[rng.randrange(len(after))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del after[place:]
    elif how == "empty":
        after.clear()
    elif how == "garbage":
        n = rng.randrange(1, 65)
        after[place : place + n] = rng.randbytes(min(n, len(after) - place))
    elif how == "tail":
        after += rng.choice((b'{"event": "sta', b"12,38", b"\n\n", b"\xff\xfe\x00", b"{}\n"))
    if after == before:
        return None
    path.write_bytes(after)
    return f"{how} at {place} of {len(before)}"


def _interrupt(trial: Trial) -> None:
    """An attempt that is killed. Its files are damaged afterwards."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    process.send(signal.SIGKILL)
    if process.wait(PATIENCE) == -signal.SIGKILL:
        trial.injected("kill -9" if trial.stage.name == "alone" else "controller kill -9", "before")
    trial.stage.wait_for_claims()


def _trained(run_dir: Path) -> list[bytes | None]:
    names = ("history.csv", "last.ckpt", "previous.ckpt")
    return [(run_dir / n).read_bytes() if (run_dir / n).exists() else None for n in names]
