"""Attacks on the folder of an own app's sweep (sweep/own_app.py): by what names the app, by its
records, manifest, checkpoints, histories and queues, and by its name. As those of attacks.py.
"""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.records.app_record import AppRecord
from experiments.records.files import RECORD_NAME, read_any_record, write_record
from experiments.sweep import submission
from experiments.sweep.app import FILE_NAME
from experiments.sweep.manifest import MANIFEST_NAME
from experiments.sweep.queues import _waiting
from experiments.sweep.submission import Submission
from tests.conftest import REPOSITORY
from tests.security.attacks import ESCAPE, FORMULA, MARKUP, Place, environment, named, of_place
from tests.security.strangers import plant_link
from tests.security.test_checkpoints import planted

APP = "ridge/ridge.py"  # the reader's own
RETRY, WORK = ("experiments.retry", "stranger", "--local"), ("experiments.work", "stranger")
STATUS, COLLECT = ("experiments.status", "stranger"), ("experiments.collect", "stranger")
PAGE = ("experiments.status", "stranger", "--html", "results/stranger/page.html")
SHOW = ("experiments.show", "RUN")
AGAIN = (APP, "-m", "degree=3,5", "n_steps=20", "sweep=stranger")
Change = Callable[[Place, Path], None]  # of the place, and of a run in the stranger's copy


def _sweep(here: Place) -> Path:
    """A run in a copy of a sweep that the reader's app has made. Its sweep has a file ridge.py that
    makes `ran` when it is imported.
    """
    ours, folder = here.root / "results" / "ours", here.root / "results" / "stranger"
    if not ours.exists():
        shutil.copytree(REPOSITORY / "examples" / "ridge", here.root / "ridge")
        words = [sys.executable, *AGAIN[:-1], "sweep=ours"]
        subprocess.run(
            words, cwd=here.root, env=environment(here.root), check=True, capture_output=True
        )
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ours, folder)
    (folder / "planted").mkdir()
    (folder / "planted" / "ridge.py").write_text(f"open({str(here.ran)!r}, 'w')\n")
    return min(folder.glob(f"*/{RECORD_NAME}")).parent


def _leave_to_workers(run_dir: Path) -> None:
    left = Submission(
        name=submission.new_name(),
        run_ids=(run_dir.name,),
        code=next((run_dir.parent / ".code").iterdir()).name,
        devices=1,
        num_nodes=1,
        resources={},
    )
    submission.write(run_dir.parent / _waiting.FOLDER, left)
    _waiting.put(run_dir.parent, [run_dir.name])


@of_place
def _on(here: Place, change: Change, *words: str, ended: bool = True) -> list[str]:
    """ended: whether the run has its record still, and is not tried again; else it was left to
    workers, if one is called.
    """
    run_dir = _sweep(here)
    if words[0] == WORK[0] and not ended:
        _leave_to_workers(run_dir)
    change(here, run_dir)
    if not ended:
        (run_dir / RECORD_NAME).unlink(missing_ok=True)
    return named(words, run_dir)


def _app(**values: Any) -> Change:
    """Other values of app.json. PLANTED is the stranger's folder."""

    def change(here: Place, run_dir: Path) -> None:
        path, planted_dir = run_dir.parent / FILE_NAME, run_dir.parent / "planted"
        given = {**json.loads(path.read_text()), **values}
        path.write_text(json.dumps(given).replace("PLANTED", str(planted_dir)))

    return change


def _written(name: str, content: str) -> Change:
    """Content of a file of the run, or beside it. RUN is the run's name."""

    def change(here: Place, run_dir: Path) -> None:
        (run_dir / name.replace("RUN", run_dir.name)).write_text(content)

    return change


def _record(**values: Any) -> Change:
    """Other values of the run's record, whose checksum is right."""

    def change(here: Place, run_dir: Path) -> None:
        record = read_any_record(run_dir / RECORD_NAME)
        assert isinstance(record, AppRecord)
        write_record(run_dir, dataclasses.replace(record, **values))

    return change


def _manifest(**values: Any) -> Change:
    """Other values of each line of the manifest, or of the config in it, with its checksum."""

    def change(here: Place, run_dir: Path) -> None:
        path, lines = run_dir.parent / MANIFEST_NAME, list[str]()
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            del entry["checksum"]
            for name, value in values.items():
                (entry["raw"] if name in entry["raw"] else entry)[name] = value
            text = json.dumps(entry)[:-1]
            digest = hashlib.sha256(text.encode()).hexdigest()
            lines.append(f'{text}, "checksum": "{digest}"}}\n')
        path.write_text("".join(lines))

    return change


def _linked(name: str, *, hard: bool = False) -> Change:
    """The reader's file or folder in the place of one of the sweep's. RUN is the run's name."""

    def change(here: Place, run_dir: Path) -> None:
        path = run_dir.parent / name.replace("RUN", run_dir.name)
        if hard:
            path.unlink(missing_ok=True)
            path.hardlink_to(here.thesis / "history.csv")
        else:
            plant_link(path, here.thesis)

    return change


def _pipe(name: str) -> Change:
    def change(here: Place, run_dir: Path) -> None:
        (run_dir / name).unlink(missing_ok=True)
        os.mkfifo(run_dir / name)

    return change


def _pickled(here: Place, run_dir: Path) -> None:
    """Checkpoint whose content the app gives to numpy, which does not unpickle it."""
    planted(run_dir / "pickle", here.ran)
    (run_dir / "last.ckpt").write_bytes(b'{"step": 3}\n' + (run_dir / "pickle").read_bytes())


def _unpickled_array(here: Place, run_dir: Path) -> None:
    """The same as an array of objects."""

    class Payload:
        def __reduce__(self) -> Any:
            return open, (str(here.ran), "w")

    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    (run_dir / "last.ckpt").write_bytes(
        b'{"step": 3}\n' + file.getvalue() + pickle.dumps(Payload())
    )


def _altered_copy(here: Place, run_dir: Path) -> None:
    """The copies that are there, changed."""
    for path in (run_dir.parent / ".code").rglob("app/ridge.py"):
        path.chmod(0o644)
        path.write_text(f"open({str(here.ran)!r}, 'w')\n")


@of_place
def _called(here: Place, sweep: str) -> list[str]:
    """A sweep's name that the reader has copied from somebody."""
    _sweep(here)
    return [*AGAIN[:-1], f"sweep={sweep}"]


HUGE = "9" * 5000
OTHERS = {"file": "PLANTED/ridge.py"}
# by name: makes the folder, and returns the words of the command after python -m, or of APP
APP_ATTACKS: dict[str, Callable[[Place], list[str]]] = {
    **{
        f"an app of a stranger's file: {words[0].rpartition('.')[2]}": _on(
            _app(**OTHERS, signature=None), *words, ended=False
        )
        for words in (RETRY, WORK, STATUS, SHOW, COLLECT, ("experiments.cancel", "stranger"),
                      ("experiments.publish", "stranger", "published"))
    },
    "a signature of another file: retry": _on(_app(**OTHERS), *RETRY, ended=False),
    "a signature of another file: work": _on(_app(**OTHERS), *WORK, ended=False),
    "a signature of zeros: retry": _on(
        _app(**OTHERS, signature="0" * 64), *RETRY, ended=False
    ),
    "a signature that is a list: retry": _on(_app(**OTHERS, signature=[1]), *RETRY, ended=False),
    "a module with dots for an app: retry": _on(
        _app(name="results.stranger.planted.ridge:Ridge"), *RETRY, ended=False
    ),
    "os:system for an app: retry": _on(_app(name="os:system"), *RETRY, ended=False),
    "a class without a colon for an app: status": _on(_app(name="ridge"), *STATUS),
    "an app's name that is a number: retry": _on(_app(name=7), *RETRY, ended=False),
    "an app's further keys: retry": _on(_app(setup="touch RAN"), *RETRY, ended=False),
    "control characters in an app's file: retry": _on(
        _app(file=f"/{ESCAPE}/ridge.py"), *RETRY, ended=False
    ),
    "control characters in an app's name: status": _on(_app(name=f"{ESCAPE}:X"), *STATUS),
    "deep JSON for app.json: retry": _on(
        _written("../app.json", '{"name": ' + "[" * 10**6), *RETRY, ended=False
    ),
    "a pipe for app.json: retry": _on(_pipe("../app.json"), *RETRY, ended=False),
    "a pipe for app.json: its own command": _on(_pipe("../app.json"), *AGAIN),
    "a link for app.json: its own command": _on(_linked("app.json"), *AGAIN),
    "a hard link for app.json: its own command": _on(_linked("app.json", hard=True), *AGAIN),
    "a number of 400 digits in a record: status": _on(_record(values={"loss": 10**400}), *STATUS),
    "a number of 400 digits in a record: collect": _on(
        _record(values={"loss": 10**400}), *COLLECT
    ),
    "a number of 400 digits in a record: its own command": _on(
        _record(values={"loss": 10**400}), *AGAIN
    ),
    "values of a record that are its own columns: collect": _on(
        _record(values={"run_id": "x", "status": 3, "error": [1], "loss": "x"}), *COLLECT
    ),
    "values of a record 1,000 deep: collect": _on(
        _written("record.json", '{"run_id": "x", "app": "a", "values": ' + '{"a":' * 1000), *COLLECT
    ),
    "a list of a million in a record: collect": _on(
        _record(values={"loss": [1] * 10**6}), *COLLECT
    ),
    "steps below none in a record: status": _on(_record(n_steps=-5, planned_steps=-1), *STATUS),
    "10^300 steps in a record: status": _on(_record(n_steps=10**300, own_work=1e308), *STATUS),
    "control characters in a record's unit: status": _on(
        _record(unit=ESCAPE, label=ESCAPE), *STATUS
    ),
    "control characters in an own record: collect": _on(
        _record(values={ESCAPE: ESCAPE}, error=ESCAPE), *COLLECT
    ),
    "a formula in an own record: collect": _on(
        _record(values={"note": FORMULA, FORMULA: 1}, label=FORMULA), *COLLECT
    ),
    "markup in an own record: status --html": _on(
        _record(values={MARKUP: MARKUP}, label=MARKUP, unit=MARKUP, error=MARKUP), *PAGE
    ),
    "markup in an own manifest: status --html": _on(
        _manifest(label=MARKUP, unit=MARKUP, degree=MARKUP), *PAGE, ended=False
    ),
    "an interpolation in an own manifest: retry": _on(
        _manifest(degree="${oc.env:HOME}", seed="${oc.decode:'[1]'}"), *RETRY, ended=False
    ),
    "a run id that leads out of the sweep: retry": _on(
        _manifest(run_id="../../thesis"), *RETRY, ended=False
    ),
    "a copy of the code elsewhere in a manifest: retry": _on(
        _manifest(code="../planted"), *RETRY, ended=False
    ),
    "a degree of 5,000 digits in a manifest: retry": _on(
        _manifest(degree=HUGE), *RETRY, ended=False
    ),
    "another folder of results in a manifest: retry": _on(
        _manifest(paths={"results": "thesis"}, sweep="../../thesis"), *RETRY, ended=False
    ),
    "an altered copy of the app in .code: retry --local": _on(_altered_copy, *RETRY, ended=False),
    "an altered copy of the app in .code: work": _on(_altered_copy, *WORK, ended=False),
    "a pickle in an own checkpoint: retry": _on(_pickled, *RETRY, ended=False),
    "an array of objects in an own checkpoint: retry": _on(_unpickled_array, *RETRY, ended=False),
    **{
        f"a checkpoint of step {step}: retry": _on(
            _written("last.ckpt", f'{{"step": {step}}}\n'), *RETRY, ended=False
        )
        for step in ("1e999", "-5", '"x"', "true", "[]")
    },
    "a checkpoint of step 999...9: retry": _on(
        _written("last.ckpt", f'{{"step": {HUGE}}}\n'), *RETRY, ended=False
    ),
    "a link for an own checkpoint: retry": _on(_linked("RUN/last.ckpt"), *RETRY, ended=False),
    "a link for an own history: retry": _on(_linked("RUN/history.csv"), *RETRY, ended=False),
    "a hard link for an own history: retry": _on(
        _linked("RUN/history.csv", hard=True), *RETRY, ended=False
    ),
    "a hard link for an own log: retry": _on(
        _linked("RUN/log.txt", hard=True), *RETRY, ended=False
    ),
    "a link for an own run: retry": _on(_linked("RUN"), *RETRY, ended=False),
    "a link for a sweep's page: retry": _on(_linked("status.html"), *RETRY, ended=False),
    "a link for workers: its own command": _on(
        _linked("workers"), *AGAIN, "hydra/launcher=workers", ended=False
    ),
    "a link for workers: work": _on(_linked("workers"), *WORK, ended=False),
    "a link for a point that waits: work": _on(
        _linked("workers/waiting/RUN"), *WORK, ended=False
    ),
    "5,000 digits in a point that waits: work": _on(
        _written("../workers/waiting/RUN", HUGE), *WORK, ended=False
    ),
    **{
        f"a sweep called {what}": _called(name)
        for what, name in (
            ("../thesis", "../thesis"), ("by a path", "/tmp/elsewhere"),
            ("by markup", f"'{MARKUP}'"), ("by a formula", f"'{FORMULA}'"),
            ("by control characters", f'"{ESCAPE}"'),
            ("by 5,000 digits", HUGE), (".code", ".code"),
        )
    },
}  # fmt: skip
