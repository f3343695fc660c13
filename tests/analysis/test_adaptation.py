"""Gains on a domain and losses elsewhere, against numbers worked out by hand."""

import math

import pandas as pd
import pytest

from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.figures import draw_adaptation
from analysis.table.load import check_table

T_2 = 4.302652729696142  # of Student's t at two degrees of freedom, 95 %


def row(loss, other, how="beside", train="layer", model="peer", **more):
    return {
        "model": model,
        "budget": 5e13,
        "n_params": 2e8,
        "n_active_params": 1e8,
        "n_tokens": 1e5,
        "seed": 0,
        "loss": loss,
        "status": "done",
        "before.validation.loss": 2.6,
        "before.wikitext2.loss": 3.4,
        "wikitext2.loss": other,
        "init.how": how,
        "init.train": train,
        "n_trained_params": 7e7,
        **more,
    }


def table(*rows):
    return check_table(pd.DataFrame([{**r, "seed": i} for i, r in enumerate(rows)]))


def test_gain_and_change_are_differences_from_the_start():
    peer = [row(2.3, 3.40), row(2.2, 3.42), row(2.1, 3.44)]
    found = compare_adaptations(table(*peer))
    (way,) = found.ways
    assert way.way == "peer beside"
    assert way.n_seeds == 3
    assert found.dof == 2
    assert found.sd == pytest.approx((0.1, 0.02))
    half = T_2 * 0.1 / math.sqrt(3)
    assert way.gain == pytest.approx((0.4, 0.4 - half, 0.4 + half))
    half = T_2 * 0.02 / math.sqrt(3)
    assert way.change == pytest.approx((0.02, 0.02 - half, 0.02 + half))
    assert "+0.40 (" in found.summary()


def test_the_noise_is_pooled_over_the_ways():
    """Two ways of two seeds, 0.1 and 0.3 apart: variances 0.005 and 0.045, of one freedom each."""
    runs = [row(2.3, 3.4), row(2.2, 3.4)]
    runs += [row(2.0, 3.4, "keep", "all"), row(1.7, 3.4, "keep", "all")]
    found = compare_adaptations(table(*runs))
    assert found.sd[0] == pytest.approx(math.sqrt((0.005 + 0.045) / 2))
    assert [way.way for way in found.ways] == ["full fine-tuning", "peer beside"]


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ({"how": "keep", "train": "lora"}, "LoRA"),
        ({"how": "keep", "train": "all"}, "full fine-tuning"),
        ({"how": "copies", "train": "all"}, "peer copies, all trained"),
        ({"how": "beside", "model": "dense"}, "dense beside"),
    ],
)
def test_ways_have_names(start, name):
    assert compare_adaptations(table(row(2.5, 3.4, **start))).ways[0].way == name


def test_one_seed_has_no_interval_and_says_so():
    found = compare_adaptations(table(row(2.5, 3.4)))
    assert math.isnan(found.ways[0].gain.lower)
    assert found.warnings == ("no way was run with two seeds or more: there are no intervals",)
    draw_adaptation(found)


def test_the_figure_has_a_point_for_each_way():
    runs = [
        row(2.3, 3.4),
        row(2.2, 3.4),
        row(2.0, 3.4, "keep", "all"),
        row(1.7, 3.4, "keep", "all"),
    ]
    figure = draw_adaptation(compare_adaptations(table(*runs)))
    (axis,) = figure.axes
    assert axis.get_legend_handles_labels()[1] == ["full fine-tuning", "peer beside"]
    points = [c[0].get_xdata()[0] for c in axis.containers]
    assert points == pytest.approx([0.75, 0.35])


def test_runs_that_started_from_nothing_are_refused():
    runs = table(row(2.5, 3.4)).drop(columns=["init.how"])
    with pytest.raises(ValueError, match=r"no init\.how: it takes runs that started from weights"):
        compare_adaptations(runs)
    with pytest.raises(ValueError, match=r"no before\.c4\.loss, c4\.loss: .*eval=\[c4\]"):
        compare_adaptations(table(row(2.5, 3.4)), general="c4")


def test_two_domains_in_one_table_are_refused():
    runs = table(row(2.5, 3.4), row(2.4, 3.4, **{"before.validation.loss": 2.9}))
    with pytest.raises(ValueError, match="start at 2 different losses"):
        compare_adaptations(runs)


def test_columns_are_those_that_records_have():
    assert "before.recipes.loss" in columns_of_starts("recipes")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("before.validation.loss", "x"), ("before.wikitext2.loss", []), ("wikitext2.loss", {}),
        ("n_trained_params", "all"), ("init.how", 5), ("init.train", {}),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_one_line(column, value):
    rows = [row(2.3, 3.40), row(2.2, 3.42, **{column: value})]
    with pytest.raises(ValueError, match=rf"{column}=.* must be "):
        compare_adaptations(table(*rows))
