"""Lines of a sweep that runs."""

import json
from types import SimpleNamespace

import pytest

from experiments.language.estimate import assumed_rate, seconds_of, seconds_of_all
from experiments.sweep import progress
from experiments.sweep.app import FIRST
from experiments.sweep.point import Handling
from experiments.sweep.progress import SweepProgress, time_left


@pytest.mark.parametrize(
    ("seconds", "flops", "rest", "estimate", "said"),
    [
        (10.0, 2e9, 4e9, 900.0, "20 s left"),
        (60.0, 1e9, 9e9, None, "9.0 min left"),
        (4.9, 1e9, 9e9, 98.0, "98 s left (estimated)"),  # no speed yet
        (0.0, 0.0, 9e9, 180.0, "3.0 min left (estimated)"),
        (0.0, 0.0, 9e9, None, "? left"),
    ],
)
def test_what_is_left_is_by_the_speed_of_what_is_done(seconds, flops, rest, estimate, said):
    assert time_left(seconds, flops, rest, estimate) == said


def test_lines_have_the_plan_s_time_until_a_speed_is_measured(tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 6.0, 9.0, 29.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    point = SimpleNamespace(
        app=FIRST, handling=Handling(sweep="s", log_every_seconds=1.0), own_work=100.0,
        work_before=0.0, run_dir=tmp_path, describe=lambda: "p",
    )  # fmt: skip
    lines = SweepProgress([point], 200.0)
    lines.update([point])
    for flops in (10, 30):
        (tmp_path / "progress.json").write_text(json.dumps({"flops": flops}))
        lines.update([point])
    said = [line.partition(";")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "sweep s: 0 of 1 runs, 0 % of the FLOPs, 6 s gone, 3.3 min left (estimated)",
        "sweep s: 0 of 1 runs, 10 % of the FLOPs, 9 s gone, 3.0 min left (estimated)",
        "sweep s: 0 of 1 runs, 30 % of the FLOPs, 29 s gone, 70 s left",
    ]


def test_the_estimate_of_a_sweep_is_its_plan_s(make):
    """On a GPU of this machine it takes a given speed: to measure one there takes memory."""
    points = [make(f"model={name}", "trainer.flops_per_second=2e6") for name in ("dense", "peer")]
    rate = assumed_rate(points[0])
    assert rate == 2e6
    total = sum(point.own_flops for point in points)
    assert seconds_of_all(points) == sum(seconds_of(p, rate) for p in points)
    assert seconds_of_all(points) == pytest.approx(total / 2e6)


@pytest.mark.parametrize(("given", "known"), [(None, None), (2e12, 5.0)])
def test_a_gpu_of_this_machine_is_not_measured_for_an_estimate(given, known):
    device = SimpleNamespace(accelerator="cuda", sheet_flops=None, card=None)
    config = SimpleNamespace(trainer=SimpleNamespace(flops_per_second=given))
    point = SimpleNamespace(
        device=device, config=config, own_flops=1e13, ranks=SimpleNamespace(world_size=1),
        transformer=SimpleNamespace(d_model=64),
    )  # fmt: skip
    assert seconds_of_all([point]) == known
