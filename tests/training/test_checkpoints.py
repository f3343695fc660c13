"""Checkpoints: whole or ignored, and a run that is asked to stop goes on to the same end."""

import multiprocessing
import os
import random
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.records.finished import ended_record
from experiments.system import interruption
from experiments.system.claims import read_events
from experiments.training import checkpoints
from experiments.training import execute as execution
from experiments.training.checkpoints import (
    LAST,
    PREVIOUS,
    Checkpoint,
    RandomState,
    forget_previous,
    to_resume_from,
)
from experiments.training.execute import execute
from tests.conftest import Killed

RUN = ("model=peer", "budget=1e9")


@pytest.fixture(autouse=True)
def _nothing_received():
    interruption.forget()
    yield
    interruption.forget()


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.listen()
    yield
    interruption._state.listening = False
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(broken, once):
    _, expected = once(*RUN)
    last = broken.run_dir / LAST
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged \(its checksum.*ignored"):
        assert to_resume_from(broken.run_dir) == broken.run_dir / PREVIOUS
    with pytest.warns(UserWarning, match=r"last.ckpt is damaged"):
        result = execute(broken)
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    assert not (broken.run_dir / PREVIOUS).exists()


@pytest.fixture
def trainer():
    """A trainer of Lightning's at step 7 whose checkpoints say `new`."""
    return SimpleNamespace(
        is_global_zero=True, global_step=7, save_checkpoint=lambda path: path.write_text("new")
    )


def test_a_save_after_a_damaged_checkpoint_leaves_the_one_before(trainer, tmp_path):
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_text(name)
    for resumed, previous in ((PREVIOUS, PREVIOUS), (LAST, "new")):
        Checkpoint(tmp_path, 1, tmp_path / resumed).save(trainer)
        assert (tmp_path / PREVIOUS).read_text() == previous


@pytest.mark.parametrize("keep", [0, 1000])
def test_without_a_whole_checkpoint_a_run_starts_again(broken, once, keep):
    _, expected = once(*RUN)
    for name in (LAST, PREVIOUS):
        path = broken.run_dir / name
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.warns(UserWarning, match="is damaged"):
        result = execute(broken)
    assert result.val_loss == expected.val_loss


def test_a_kill_between_the_two_renames_loses_one_checkpoint_at_most(broken, once):
    _, expected = once(*RUN)
    (broken.run_dir / LAST).unlink()
    assert to_resume_from(broken.run_dir) == broken.run_dir / PREVIOUS
    assert execute(broken).val_loss == expected.val_loss


def test_the_last_step_is_saved_once(trainer, tmp_path):
    """Else a kill between the renames leaves previous.ckpt alone, with nothing left to train."""
    saved = []
    trainer.save_checkpoint = lambda path: (saved.append(path), path.touch())
    checkpoint = Checkpoint(tmp_path, 1)
    checkpoint.save(trainer)
    checkpoint.on_train_end(trainer, None)
    assert len(saved) == 1
    trainer.global_step = 8
    checkpoint.on_train_end(trainer, None)
    assert len(saved) == 2


@pytest.mark.parametrize(("seconds", "votes"), [(2.0, 60), (0.25, 16), (1e-3, 4)])
def test_ranks_vote_about_once_a_second(tmp_path, monkeypatch, seconds, votes):
    """And one that has to stop is heard within 20 steps, however fast they are."""
    now, asked = [0.0], []
    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    device = torch.device("cpu")
    trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(root_device=device))
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        voting, reduce = checkpoints._Votes(), torch.distributed.all_reduce

        def counted(*given):
            asked.append(given)
            reduce(*given)

        monkeypatch.setattr(torch.distributed, "all_reduce", counted)
        heard = []
        for step in range(1001, 1061):
            now[0] += seconds
            trainer.global_step = step
            heard.append(voting.agreed(trainer, False, step > 1030)[1])
    finally:
        torch.distributed.destroy_process_group()
    assert len(asked) == votes
    assert not any(heard[:30])
    assert any(heard[30:51])


def test_a_finished_run_keeps_the_one_checkpoint_that_it_has(tmp_path):
    (tmp_path / PREVIOUS).write_text("whole")
    forget_previous(tmp_path)
    assert (tmp_path / LAST).read_text() == "whole"
    assert not (tmp_path / PREVIOUS).exists()


def test_a_kill_at_the_record_leaves_no_checkpoint_that_nobody_removes(make, monkeypatch):
    def die(run_dir, record):
        raise Killed

    point = make(*RUN, "trainer.checkpoint_minutes=0")
    monkeypatch.setattr(execution, "write_record", die)
    with pytest.raises(Killed):
        execute(point)
    assert (point.run_dir / LAST).exists()
    assert not (point.run_dir / PREVIOUS).exists()


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_a_signal_saves_stops_and_is_resumed_to_the_bit(make, handlers, once, number):
    _, expected = once(*RUN)
    point = make(*RUN)

    def send(row):
        if row["step"] == 20:
            os.kill(os.getpid(), number)

    with pytest.raises(interruption.Interrupted, match=rf"{number.name} at step 2[01]"):
        execute(point, send)
    assert not (point.run_dir / "record.json").exists()
    step = torch.load(point.run_dir / LAST, weights_only=True)["global_step"]
    assert step in (20, 21)
    assert [e["event"] for e in read_events(point.run_dir)] == ["started", "interrupted"]
    interruption.forget()
    result = execute(point)
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    assert [e["event"] for e in read_events(point.run_dir)][2:] == ["started", "done"]


def test_outside_training_a_signal_ends_the_process_at_once(handlers):
    with pytest.raises(interruption.Interrupted, match="SIGUSR1"):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert interruption.received() == "SIGUSR1"


def test_generators_go_on_where_they_were():
    state = RandomState()
    saved = state.state_dict()
    drawn = random.random(), np.random.rand(), torch.rand(1)
    state.load_state_dict(saved)
    assert (random.random(), np.random.rand(), torch.rand(1)) == drawn


@pytest.fixture
def finished(make, once):
    """A copy of the finished run, and its record."""
    whole, record = once(*RUN)
    point = make(*RUN)
    shutil.copytree(whole.run_dir, point.run_dir)
    return point, record


def test_a_finished_run_is_not_run_again(finished):
    point, record = finished
    assert execute(point) == record
    assert len(read_events(point.run_dir)) == 2


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_record_is_set_aside_and_written_again(finished, damage):
    point, expected = finished
    path = point.run_dir / "record.json"
    text = path.read_text()
    loss = str(expected.val_loss)
    other = "1" if loss[3] != "1" else "2"
    flipped = text.replace(f'"val_loss": {loss}', f'"val_loss": {loss[:3] + other + loss[4:]}')
    damaged = text[:1000] if damage == "torn" else flipped
    assert damaged != text
    path.write_text(damaged)
    assert ended_record(point.run_dir) is None
    with pytest.warns(UserWarning, match=r"record.json is damaged .*kept as record.json.damaged"):
        result = execute(point)
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    assert (point.run_dir / "record.json.damaged").read_text() == damaged
    assert read_record(path) == result


def _execute_raw(raw):
    execute(make_point(raw))


def test_kill_minus_nine_at_random_moments_changes_nothing(make):
    """A process killed again and again, wherever it is: starting, training, saving, evaluating."""
    longer = ("model=peer", "budget=1e10", "trainer.checkpoint_minutes=0.001")
    alone = make(*longer, folder="whole")
    expected = execute(alone)
    point = make(*longer)
    context = multiprocessing.get_context("forkserver")  # which has imported all beforehand
    context.set_forkserver_preload(["experiments.training.execute"])
    moments = random.Random(0)
    n_kills = 0
    while ended_record(point.run_dir) is None:
        process = context.Process(target=_execute_raw, args=(dict(point.raw),))
        process.start()
        # each turn is longer: it must end one day, on a busy machine too
        process.join(0.2 * 1.5**n_kills * (1 + moments.random()))
        if process.exitcode is None:
            process.kill()
            process.join()
            n_kills += 1
    assert n_kills >= 2
    record = read_record(point.run_dir / "record.json")
    assert (record.val_loss, record.train_loss) == (expected.val_loss, expected.train_loss)
    history = [
        [row.split(",")[:4] for row in (run.run_dir / "history.csv").read_text().splitlines()]
        for run in (alone, point)
    ]
    assert history[0] == history[1]
