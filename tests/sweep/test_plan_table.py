"""Dry run's table: a line a cell with its seeds, and above what all share."""

from experiments.language.plan_table import plan_table
from experiments.sweep.settings import with_settings


def test_points_that_differ_in_the_seed_alone_show_it(make):
    words = (("budget=2e9", "seed=0"), ("budget=2e9", "seed=1"), ("budget=3e9", "seed=0"))
    points = [make("size=2", *each) for each in words]
    shared, head, both, other, *_ = plan_table(with_settings(points), 1e9).splitlines()
    assert both.endswith("  seed=0,1")
    assert "seed" not in other
    assert shared.startswith("each run: model dense, size 2, ")
    assert "model" not in head
    assert head.split()[0] == "budget"


def test_many_seeds_are_a_range_and_shares_are_said_when_asked_for(make):
    points = [make("size=2", "budget=2e9", f"seed={seed}", "verbose=true") for seed in (1, 2, 3)]
    text = plan_table(with_settings(points), 1e9)
    assert "  seed=1-3\n" in text
    assert "Share of the FLOPs:" in text
    assert "Memory of one process, MiB:" in text
    assert "Share of" not in plan_table([make("size=2", "budget=2e9")], 1e9)


def test_points_of_another_seed_get_the_settings_of_their_cell(make):
    cells = ((0, "1e-3"), (0, "2e-3"), (1, "1e-3"))
    made = [make("size=2", "budget=2e9", f"seed={seed}", f"ladder.lr={lr}") for seed, lr in cells]
    points = with_settings(made)
    assert [point.setting for point in points] == [" lr=0.001", " lr=0.002", " lr=0.001"]
    assert [point.setting for point in with_settings([points[0], points[2]])] == ["", ""]
