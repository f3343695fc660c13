"""Dry run's table: lines that would be alike say in which seed they differ."""

from experiments.points.planning import make_point
from experiments.sweep.plan_table import plan_table
from experiments.sweep.settings import with_settings
from tests.conftest import TINY


def test_points_that_differ_in_the_seed_alone_show_it(compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")

    def lines(*overrides_of):
        raws = [compose_raw("model=dense", "size=2", *o, *TINY, *paths) for o in overrides_of]
        table = plan_table(with_settings([make_point(raw) for raw in raws]), 1e9)
        return table.splitlines()[1 : 1 + len(raws)]

    one, two, other = lines(
        ("budget=2e9", "seed=0"), ("budget=2e9", "seed=1"), ("budget=3e9", "seed=0")
    )
    assert (one.split()[-1], two.split()[-1]) == ("seed=0", "seed=1")
    assert "seed" not in other


def test_points_of_another_seed_get_the_settings_of_their_cell(compose_raw, tmp_path):
    paths = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
    choices = (
        ("seed=0", "ladder.lr=1e-3"),
        ("seed=0", "ladder.lr=2e-3"),
        ("seed=1", "ladder.lr=1e-3"),
    )
    raws = [compose_raw("model=dense", "size=2", "budget=2e9", *o, *TINY, *paths) for o in choices]
    points = with_settings([make_point(raw) for raw in raws])
    assert [point.setting for point in points] == [" lr=0.001", " lr=0.002", " lr=0.001"]
    assert [point.setting for point in with_settings([points[0], points[2]])] == ["", ""]
