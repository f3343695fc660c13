"""history.csv: equal to an uninterrupted run's whatever happened to it, and to the disk."""

import builtins
import csv
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from experiments.models.ffn.dense import Dense
from experiments.points.planning import make_point
from experiments.records.files import Outcome
from experiments.records.finished import lacks_rows
from experiments.sweep import manifest
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.queues.local import Local
from experiments.sweep.states import read_sweep
from experiments.system.disk import explained
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from experiments.training.history import History
from tests.conftest import TINY, Killed, kill_at

EXACT = ("step", "n_tokens", "flops", "loss", "lr")


@pytest.fixture(scope="module")
def make(compose_raw, tmp_path_factory):
    """make(..., folder="a"): a tiny point, with the same text for all."""
    top = tmp_path_factory.mktemp("history")

    def point(*overrides, folder="results"):
        paths = (f"paths.results={top / folder}", f"paths.cache={top / 'cache'}")
        fixed = ("model=dense", "size=2", "budget=1e9")
        return make_point(
            compose_raw(*fixed, *TINY, "logger.log_every_n_steps=2", *paths, *overrides)
        )

    return point


@pytest.fixture(scope="module")
def whole(make):
    """An uninterrupted run: its record, and what its history says."""
    point = make(folder="whole")
    return execute(point), exact(point)


@pytest.fixture(scope="module")
def killed(make):
    """Folder of a run that was killed at step 20, with a checkpoint of each step before."""
    point = make("trainer.checkpoint_minutes=0", folder="killed")
    with pytest.raises(Killed):
        execute(point, kill_at(20))
    return point.run_dir


@pytest.fixture
def broken(make, killed, tmp_path):
    """A copy of it: a point whose folder a test may damage."""
    point = make(f"paths.results={tmp_path}")
    shutil.copytree(killed, point.run_dir)
    return point


def exact(point):
    """Columns of history.csv that no clock changes, as text."""
    with (point.run_dir / "history.csv").open(newline="") as file:
        return [[row[name] for name in EXACT] for row in csv.DictReader(file)]


@pytest.mark.parametrize("nth", [1, 2, 5, 9])
def test_a_kill_while_a_resumed_run_opens_the_file_loses_no_row(broken, whole, monkeypatch, nth):
    n_opened = 0
    plain = builtins.open

    def killing(file, *arguments, **keywords):
        nonlocal n_opened
        is_history = not isinstance(file, int) and Path(file).name == "history.csv"
        n_opened += is_history
        if is_history and n_opened == nth:
            raise Killed
        return plain(file, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", killing)
        with pytest.raises(Killed):
            execute(broken)
    execute(broken)
    assert exact(broken) == whole[1]


DAMAGES = {
    "empty": lambda text: "",
    "missing": lambda text: None,
    "header torn": lambda text: text[20:],
    "last row torn": lambda text: text[:-9],
    "a row cut in its first column": lambda text: text.replace("\n12,", "\n1"),
    "a row without values": lambda text: text.replace("\n12,", "\n\n12,"),
    "no UTF-8": lambda text: text.replace("\n12,", "\n\udcff2,"),
    "a row twice": lambda text: text + text.splitlines()[-1] + "\n",
}


def damage(path, name):
    damaged = DAMAGES[name](path.read_text())
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged.encode(errors="surrogateescape"))


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_repaired_at_a_resume(broken, whole, name):
    damage(broken.run_dir / "history.csv", name)
    execute(broken)
    assert exact(broken) == whole[1]


def test_a_finished_run_whose_record_is_lost_has_its_file_repaired(broken, whole):
    """It trains no more, and so reaches no hook of training."""
    execute(broken)
    expected = (broken.run_dir / "history.csv").read_bytes()
    (broken.run_dir / "history.csv").unlink()
    (broken.run_dir / "record.json").unlink()
    execute(broken)
    assert (broken.run_dir / "history.csv").read_bytes() == expected


def test_a_row_that_does_not_fit_on_the_disk_fails_the_run_and_is_mended(
    broken, whole, monkeypatch
):
    plain = History._append

    def full(self, row):
        if row["step"] != 34:
            plain(self, row)
            return
        with self.path.open("a") as file:
            file.write("34,43")
        with explained(self.path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(History, "_append", full)
        failed = execute(broken)
    assert failed.status == "failed"
    last = failed.error.strip().splitlines()[-1]
    assert "history.csv can't be written: No space left on device; free some space" in last
    result = execute(broken)
    expected, rows = whole
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    assert exact(broken) == rows


def forget_rows(path):
    """Makes a checkpoint one of a version that kept no rows."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["callbacks"]["History"]
    torch.save(checkpoint, path)


def test_a_checkpoint_without_rows_takes_those_of_the_file(broken, whole):
    forget_rows(broken.run_dir / LAST)
    execute(broken)
    assert exact(broken) == whole[1]


def test_a_checkpoint_without_rows_and_a_damaged_file_are_warned_of(broken, whole):
    forget_rows(broken.run_dir / LAST)
    damage(broken.run_dir / "history.csv", "a row cut in its first column")
    with pytest.warns(UserWarning, match=r"history.csv is damaged \(1 rows, [89] whole ones are"):
        execute(broken)
    assert exact(broken) == [row for row in whole[1] if row[0] != "12"]


def test_100_000_rows_are_4_megabytes_and_come_back(tmp_path):
    history = History(tmp_path / "history.csv", 1, lambda row: None)
    history._kept = [(float(i), i / 3, 0.1, 1e3, i / 7) for i in range(100_000)]
    torch.save(history.state_dict(), tmp_path / "state")
    assert (tmp_path / "state").stat().st_size < 4.1e6
    again = History(tmp_path / "history.csv", 1, lambda row: None)
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert again._kept == history._kept


def test_a_diverged_run_that_lost_its_record_stops_where_it_had(make):
    point = make("ladder.lr=1e3", "optim.grad_clip=1e9", "budget=2e10")
    first = execute(point)
    assert first.status == "diverged"
    (point.run_dir / "record.json").unlink()
    again = execute(point)
    assert (again.status, again.n_tokens) == ("diverged", first.n_tokens)


def test_a_layer_that_draws_is_resumed_to_the_bit(make, monkeypatch):
    """The global generator is where an uninterrupted run's would be."""
    plain = Dense.forward
    monkeypatch.setattr(
        Dense, "forward", lambda self, x: F.dropout(plain(self, x), 0.1, self.training)
    )
    points = [make(folder=folder) for folder in ("drawn", "drawn whole")]
    with pytest.raises(Killed):
        execute(make("trainer.checkpoint_minutes=0", folder="drawn"), kill_at(20))
    for point in points:
        execute(point)
    assert exact(points[0]) == exact(points[1])
    one, other = [torch.load(p.run_dir / LAST, weights_only=True) for p in points]
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    generators = [state["callbacks"]["RandomState"]["torch"] for state in (one, other)]
    assert torch.equal(*generators)


def lose_power(run_dir, n_rows):
    """What a disk leaves that had not all of history.csv: its first rows, or no file."""
    path = run_dir / "history.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    if n_rows is not None:
        path.write_bytes(b"".join(lines[: 1 + n_rows]))


@pytest.mark.parametrize("n_rows", [None, 0, 3])
def test_a_finished_run_that_lost_rows_has_them_again_by_the_same_command(broken, capsys, n_rows):
    execute(broken)
    expected = (broken.run_dir / "history.csv").read_bytes()
    sweep_dir = broken.run_dir.parent
    manifest.add(sweep_dir, [manifest.make_entry(broken, None)])
    assert read_sweep(sweep_dir).notes == ()
    lose_power(broken.run_dir, n_rows)
    (note,) = read_sweep(sweep_dir).notes
    assert note.startswith(f"history.csv lacks its last rows in 1 finished runs ({broken.run_id});")
    run_one(broken.raw)
    assert (broken.run_dir / "history.csv").read_bytes() == expected
    assert "ended before its run did: written again from last.ckpt" in capsys.readouterr().out
    lose_power(broken.run_dir, n_rows)
    run_sweep([broken.raw], Local(n_workers=1))
    assert (broken.run_dir / "history.csv").read_bytes() == expected
    assert read_sweep(sweep_dir).notes == ()


def test_rows_that_no_checkpoint_has_are_not_asked_for(tmp_path):
    """Of a published sweep the records alone are there."""
    assert not lacks_rows(tmp_path, Outcome(status="done", n_steps=5, error=None, last_row=5))


def test_every_row_is_on_the_disk_before_the_record_has_its_name(make, monkeypatch, tmp_path):
    point = make(f"paths.results={tmp_path}")
    synced, plain = {}, (os.fsync, Path.replace)

    def fsync(descriptor):
        found = os.fstat(descriptor)
        synced[found.st_ino] = found.st_size
        plain[0](descriptor)

    def replace(self, target):
        if Path(target).name == "record.json":
            for path in (point.run_dir / "history.csv", point.run_dir / LAST, self):
                assert synced[path.stat().st_ino] == path.stat().st_size, path.name
            assert point.run_dir.stat().st_ino in synced
        synced.pop(Path(target).parent.stat().st_ino, None)  # it has a new name in it
        return plain[1](self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    assert execute(point).status == "done"
    assert point.run_dir.stat().st_ino in synced
    assert point.run_dir.parent.stat().st_ino in synced
