"""Local sweeps on GPUs that are not there: their number is pretended, and workers note theirs."""

import multiprocessing.forkserver
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from experiments.points.planning import make_point
from experiments.sweep import workers
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queues.local import Local
from experiments.sweep.states import read_states
from experiments.system import interruption
from tests.conftest import python

EMULATED = Path(__file__).parent / "emulated"


@pytest.fixture
def gpus(monkeypatch):
    """gpus(n): this process sees so many."""

    def pretend(n, visible=None):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))

    return pretend


@pytest.fixture
def points(make):
    return [make(f"seed={seed}", "budget=2e8") for seed in range(6)]


@pytest.mark.parametrize(
    ("n_gpus", "visible", "settings", "expected"),
    [
        (4, None, {}, ["0", "1", "2", "3"]),
        (2, None, {"points_per_gpu": 2}, ["0", "1", "0", "1"]),
        (2, None, {"points_per_gpu": 2, "n_workers": 3}, ["0", "1", "0"]),
        (1, None, {"n_workers": 4}, ["0"]),
        (8, None, {}, ["0", "1", "2", "3", "4", "5"]),  # six points
        (2, "5,3", {}, ["5", "3"]),
        (2, "GPU-8f6d, GPU-11aa", {}, ["GPU-8f6d", "GPU-11aa"]),
        (1, "MIG-c6d4,MIG-cba6,MIG-77bc", {}, ["MIG-c6d4", "MIG-cba6", "MIG-77bc"]),
        (1, "0,7", {}, ["0"]),  # torch knows no eighth
    ],
)
def test_each_of_the_points_at_once_has_a_gpu(gpus, points, n_gpus, visible, settings, expected):
    gpus(n_gpus, visible)
    on_gpus = [make_point(point.raw) for point in points]
    assert list(Local(**settings)._slots(on_gpus, len(on_gpus))) == expected


def test_a_cpu_s_sweep_has_no_gpus(gpus, make):
    gpus(1)
    points = [make(f"seed={seed}", "trainer.accelerator=cpu") for seed in range(3)]
    assert Local(n_workers=3)._slots(points, 3) == (None, None, None)


def test_without_a_gpu_their_points_are_refused(gpus, points):
    gpus(1)
    on_gpus = [make_point(point.raw) for point in points]
    gpus(0)
    with pytest.raises(ValueError, match="planned for a GPU, and torch sees none on this machine"):
        Local().check(on_gpus, 6)


def test_points_that_share_a_gpu_share_its_memory(gpus, points, monkeypatch):
    gpus(1)
    on_gpus = [make_point(point.raw) for point in points]
    total = on_gpus[0].plan.memory.total
    monkeypatch.setattr("experiments.system.device.total_memory", lambda _: 3 * total)
    Local(points_per_gpu=3).check(on_gpus, 6)
    with pytest.raises(ValueError, match=r"^hydra.launcher.points_per_gpu=4 times dense "):
        Local(points_per_gpu=4).check(on_gpus, 6)


class Asked(Exception):
    """A worker asks what is here."""


@pytest.mark.parametrize(("card", "seen"), [("GPU-11aa", "GPU-11aa"), (None, "5,3")])
def test_a_worker_is_told_its_gpu_before_it_asks_what_is_here(monkeypatch, card, seen):
    def ask(raws, **_):
        raise Asked(os.environ["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    monkeypatch.setattr(workers, "plan_points", ask)
    monkeypatch.setattr(workers.interruption, "listen", lambda: None)
    with pytest.raises(Asked, match=f"^{seen}$"):
        workers._work({}, 1, card)


def test_a_worker_that_is_told_to_end_before_its_run_says_so_by_its_code(monkeypatch, capsys):
    """No traceback: the controller has the word."""

    def told(raws, **_):
        raise interruption.Interrupted("SIGTERM")

    monkeypatch.setattr(workers, "plan_points", told)
    monkeypatch.setattr(interruption, "listen", lambda: None)
    monkeypatch.setattr(interruption, "ending", lambda: None)
    with pytest.raises(SystemExit) as end:
        workers._work({}, 1, None)
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def emulated(tmp_path, monkeypatch):
    """Folder where workers' processes note their GPUs, and read which do not compute."""
    monkeypatch.setenv("EMULATED_GPUS", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(EMULATED))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("experiments.system.device.total_memory", lambda _: None)
    multiprocessing.forkserver._forkserver._stop()  # another test's knows no emulation
    yield tmp_path
    multiprocessing.forkserver._forkserver._stop()


@pytest.mark.night
def test_a_sweep_on_gpus_of_which_some_do_not_compute(gpus, emulated, points, sweep, capsys):
    raws, notes = [point.raw for point in points[:3]], emulated / "notes"
    gpus(1)
    (emulated / "dead").write_text("0")
    with pytest.raises(SystemExit) as end:
        run_sweep(raws, Local())
    assert end.value.code == 1
    assert notes.read_text() == "0\n"
    assert sorted((point.state, point.detail) for point in read_states(sweep)) == [
        ("failed", "its GPU does not compute"), ("waiting", ""), ("waiting", ""),
    ]  # fmt: skip
    assert "3 of 3 runs failed" in capsys.readouterr().err

    gpus(2)
    (emulated / "dead").write_text("1")
    notes.write_text("")
    run_sweep(raws, Local(n_workers=3))
    assert Counter(notes.read_text().split()) == {"0": 3, "1": 1}
    assert {point.state for point in read_states(sweep)} == {"done"}
    out = capsys.readouterr().out
    assert (
        "hydra.launcher.n_workers=3 is 2 here: 2 GPUs, points_per_gpu=1; "
        "hydra.launcher.points_per_gpu=2 lets points share\n" in out
    )
    assert "3 runs, 2 at a time" in out
    assert "GPU 1: its GPU does not compute; it gets no more points" in out


@pytest.mark.night
def test_what_workers_are_forked_from_has_not_started_cuda():
    """It would have all GPUs, and a fork of it could start none."""
    code = """
import torch

asked = []
for name in ("is_available", "device_count", "_lazy_init", "get_device_properties"):
    setattr(torch.cuda, name, lambda *_, name=name: asked.append(name))
import experiments.training.execute
import experiments.sweep.workers
print(asked)
"""
    assert python("-c", code).stdout == "[]\n"
