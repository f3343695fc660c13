"""Dry run's table: lines that would be alike say in which seed they differ."""

from experiments.sweep.plan_table import plan_table
from experiments.sweep.settings import with_settings


def test_points_that_differ_in_the_seed_alone_show_it(make):
    words = (("budget=2e9", "seed=0"), ("budget=2e9", "seed=1"), ("budget=3e9", "seed=0"))
    points = [make("size=2", *each) for each in words]
    one, two, other = plan_table(with_settings(points), 1e9).splitlines()[1:4]
    assert (one.split()[-1], two.split()[-1]) == ("seed=0", "seed=1")
    assert "seed" not in other


def test_points_of_another_seed_get_the_settings_of_their_cell(make):
    cells = ((0, "1e-3"), (0, "2e-3"), (1, "1e-3"))
    made = [make("size=2", "budget=2e9", f"seed={seed}", f"ladder.lr={lr}") for seed, lr in cells]
    points = with_settings(made)
    assert [point.setting for point in points] == [" lr=0.001", " lr=0.002", " lr=0.001"]
    assert [point.setting for point in with_settings([points[0], points[2]])] == ["", ""]
