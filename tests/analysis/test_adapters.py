"""Ways to choose adapters, against numbers worked out by hand."""

import json
import math

import pytest

from analysis.adapters import compare_libraries
from analysis.figures import draw_libraries

T_2 = 4.302652729696142  # of Student's t at two degrees of freedom, 95 %
TEXTS = ("a", "b", "mixed", "new")


LATER = {
    "name": "c", "own": 2.0, "equal": True, "without": {"a": 2.1, "new": 4.0, "c": 3.0},
    "with": {"a": 2.2, "new": 4.1, "c": 2.25},
}  # fmt: skip


def report(**ways):
    """Losses of a, b, mixed and new by way."""
    losses = {way: dict(zip(TEXTS, values, strict=True)) for way, values in ways.items()}
    losses["own"].pop("new")
    return {"adapters": ["a", "b"], "unseen": ["new"], "losses": losses}


def written(folder, reports):
    for i, one in enumerate(reports):
        (folder / f"seed{i}.json").write_text(json.dumps(one))
    return folder


def three():
    return [
        report(
            base=(3.0, 3.2, 3.1, 4.0), own=(2.0, 2.4, 2.2, 9), arrow=(2.5, 2.9, 2.9, 4.5),
            token=(2.1 + extra, 2.5 + extra, 2.4, 4.1),
        )
        for extra in (0.0, 0.1, 0.2)
    ]  # fmt: skip


def test_differences_from_the_oracle_and_from_the_base(tmp_path):
    found = compare_libraries(written(tmp_path, three()))
    assert found.n_seeds == 3
    assert found.loss == pytest.approx(2.2)
    assert [way.way for way in found.ways] == ["keys, each token by itself", "Arrow", "no adapter"]
    keys, arrow, base = found.ways
    half = T_2 * 0.1 / math.sqrt(3)
    assert keys.own == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert keys.mixed == pytest.approx((0.2, 0.2, 0.2))
    assert keys.unseen == pytest.approx((0.1, 0.1, 0.1))
    assert arrow.own.value == pytest.approx(0.5)
    assert base.unseen.value == 0
    assert "2 adapters: a, b; unseen: new" in found.summary()
    assert len(found.to_frame()) == 3
    assert draw_libraries(found).axes


def test_an_adapter_that_came_later(tmp_path):
    found = compare_libraries(written(tmp_path, [{**one, "later": LATER} for one in three()]))
    assert found.later.gain.value == pytest.approx(0.75)
    assert found.later.left.value == pytest.approx(0.25)
    assert found.later.others.value == pytest.approx(0.1)
    assert "outputs of each other adapter are the same to the bit" in found.summary()
    unequal = [{**one, "later": {**LATER, "equal": False}} for one in three()]
    assert "are NOT the same" in compare_libraries(written(tmp_path, unequal)).summary()


def test_a_way_counts_where_it_was_scored(tmp_path):
    reports = three()
    del reports[0]["losses"]["token"]
    keys = compare_libraries(written(tmp_path, reports)).ways[0]
    assert keys.n_seeds == 2
    assert keys.own.value == pytest.approx(0.25)


def test_one_seed_has_no_intervals(tmp_path):
    found = compare_libraries(written(tmp_path, three()[:1]))
    assert found.warnings == ("one seed: there are no intervals",)
    assert math.isnan(found.ways[0].own.lower)


def test_bad_folders_are_one_line_each(tmp_path):
    with pytest.raises(ValueError, match=r"has no comparison; python -m experiments\.library"):
        compare_libraries(tmp_path)
    (tmp_path / "x.json").write_text("{}")  # of something else
    with pytest.raises(ValueError, match="has no comparison"):
        compare_libraries(tmp_path)
    reports = three()
    reports[1]["unseen"] = ["other"]
    reports[1]["losses"]["base"]["other"] = 4.0
    for way in ("arrow", "token"):
        reports[1]["losses"][way]["other"] = 4.0
    with pytest.raises(ValueError, match="comparisons of different unseen"):
        compare_libraries(written(tmp_path, reports))
    (tmp_path / "seed0.json").write_text("{")
    with pytest.raises(ValueError, match=r"seed0\.json can't be read as JSON"):
        compare_libraries(tmp_path)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("losses",), None), (("losses",), []), (("losses",), {}), (("losses", "own"), None),
        (("losses", "base"), "x"), (("losses", "token", "a"), None), (("losses", "own", "b"), "2"),
        (("losses", "arrow", "new"), math.nan), (("losses", "base", "mixed"), True),
        (("adapters",), None), (("adapters",), []), (("adapters",), [{}]), (("adapters",), "ab"),
        (("unseen",), 5), (("later",), "x"), (("later",), {"name": "c"}),
        (("later",), {**LATER, "own": None}), (("later",), {**LATER, "with": []}),
        (("later",), {**LATER, "name": []}), (("later",), {**LATER, "without": {"c": math.inf}}),
    ],
)  # fmt: skip
def test_a_file_with_another_value_than_compare_writes_is_one_line(tmp_path, where, value):
    one = {**three()[0], "later": LATER}
    node = one
    for name in where[:-1]:
        node = node[name]
    node[where[-1]] = value
    with pytest.raises(
        ValueError, match=r"seed0\.json is not a comparison .* move it away"
    ) as raised:
        compare_libraries(written(tmp_path, [one]))
    assert "\n" not in str(raised.value)


def test_adapters_that_came_later_must_be_one(tmp_path):
    other = {**LATER, "name": "d", "without": {"a": 3.0, "d": 3.0}, "with": {"a": 3.0, "d": 2.0}}
    reports = [{**one, "later": later} for one, later in zip(three(), (LATER, other, LATER))]
    with pytest.raises(ValueError, match="different later adapters"):
        compare_libraries(written(tmp_path, reports))
