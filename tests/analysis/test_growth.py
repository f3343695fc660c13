"""Share of a larger layer's gain that growing closes, against numbers worked out by hand."""

import math
import shutil

import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.figures import draw_growth
from analysis.growth import compare_growth, read_curves
from analysis.table.load import check_table
from tests.conftest import REPOSITORY

T_6 = 2.4469118511449692  # of Student's t at six degrees of freedom, 95 %


def row(n_experts, loss, how=None, budget=1e13, **more):
    parent = {"init.parent.n_experts": 1024, "init.parent.flops": 5e12, "init.parent.run_id": "p"}
    return {
        "model": "peer",
        "budget": budget if how is None else 5e12,
        "n_params": 2e6,
        "n_active_params": 1e6,
        "n_tokens": 1e6,
        "n_experts": n_experts,
        "loss": loss,
        "status": "done",
        "init.how": how,
        **(dict.fromkeys(parent) if how is None else parent),
        **more,
    }


def table(*rows):
    made = [{**r, "seed": i, "run_id": r.get("run_id", f"r{i}")} for i, r in enumerate(rows)]
    return check_table(pd.DataFrame(made))


def nine(small=4.0, grown=3.88, large=3.85):
    spread = (-0.01, 0.0, 0.01)
    return [
        *(row(1024, small + d) for d in spread),
        *(row(16384, large + d) for d in spread),
        *(row(16384, grown + d, how="bias") for d in spread),
    ]


def test_the_share_is_a_ratio_of_means_and_its_interval_fiellers():
    found = compare_growth(table(*nine()))
    (way,) = found.ways
    assert (way.small, way.large, way.flops, way.start) == (1024, 16384, 1e13, 0.5)
    assert found.sd == pytest.approx(0.01)
    assert found.dof == 6
    half = T_6 * 0.01 * math.sqrt(2 / 3)
    assert way.gain == pytest.approx((0.15, 0.15 - half, 0.15 + half))
    assert way.closed.value == pytest.approx(0.8)
    # a bound is where the difference of both sides is as many standard errors from 0 as t
    for bound in (way.closed.lower, way.closed.upper):
        error = 0.01 * math.sqrt(((1 - bound) ** 2 + 1 + bound**2) / 3)
        assert abs(0.12 - bound * 0.15) == pytest.approx(T_6 * error)
    assert way.closed.lower < 0.8 < way.closed.upper
    assert "peer 1,024 to 16,384 experts by bias, at 50% of the FLOPs" in found.summary()
    assert not found.warnings


def test_a_gain_that_is_not_significant_has_no_share():
    found = compare_growth(table(*nine(large=3.995)))
    assert math.isnan(found.ways[0].closed.lower)
    assert "not significant" in found.warnings[0]


def test_parents_and_runs_at_other_budgets_are_left_out():
    more = [row(1024, 4.3, budget=5e12, run_id="p"), row(16384, 3.0, budget=1e14)]
    assert compare_growth(table(*nine(), *more)).ways[0].loss_large == pytest.approx(3.85)


def test_tables_without_what_it_takes():
    with pytest.raises(ValueError, match="no grown runs"):
        compare_growth(table(*nine()[:6]))
    with pytest.raises(ValueError, match="no run of peer has n_experts=1024 throughout"):
        compare_growth(table(*nine()[3:]))


def test_curves_go_through_the_growth(tmp_path):
    first = row(16384, 3.9, how="beside") | {"init.parent.n_experts": None}  # of a dense parent
    others = (row(15360, 3.9, how="beside"), row(None, 4.1, model="dense"), first)
    runs = table(row(1024, 4.0, budget=5e12, run_id="p"), *nine(), *others)
    for _, own in runs.iterrows():
        folder = tmp_path / own["run_id"]
        folder.mkdir()
        steps = pd.DataFrame({"step": range(1, 101), "loss": 4.0})
        steps["flops"] = own["budget"] * steps["step"] / 100
        steps.to_csv(folder / "history.csv", index=False)
    curves = {curve.name: curve for curve in read_curves(runs, tmp_path)}
    grown = {f"peer 16,384, grown by {how} from 1,024" for how in ("bias", "beside")}
    assert set(curves) == {"dense", "peer 1,024", "peer 16,384"} | grown
    for curve in curves.values():
        assert max(curve.flops) == pytest.approx(1e13, rel=0.03)
        assert min(curve.flops) < 3e11
    (axis,) = draw_growth(list(curves.values())).axes
    assert {name: curves[name].grown_at for name in grown} == dict.fromkeys(grown, 5e12)
    assert len(axis.lines) == len(curves) + 1
    assert list(axis.lines[-1].get_xdata()) == [5e12, 5e12]


def test_a_history_without_its_last_rows_is_not_drawn_and_said(tmp_path, capsys):
    shutil.copytree(REPOSITORY / "results" / "growth" / "square", tmp_path / "square")
    history = sorted((tmp_path / "square").glob("*/history.csv"))[0]
    (history.parent / "last.ckpt").touch()
    history.write_bytes(b"")
    assert main(["compare", str(tmp_path / "square"), "--out", str(tmp_path / "out")]) == 0
    assert (
        f"warning: not drawn: history.csv lacks its last rows in 1 finished runs "
        f"({history.parent.name}); the command that started the sweep, or retry, writes them"
    ) in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"flops,loss\nx,1\n", b"flops,loss\n,1\n"])
def test_a_damaged_history_is_one_line_that_names_it(tmp_path, content):
    (tmp_path / "r0").mkdir()
    (tmp_path / "r0" / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"r0/history.csv is damaged \(.*\); put a copy") as raised:
        read_curves(table(*nine()), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("init.parent.n_experts", "many", "must be a finite number"),
        ("init.parent.n_experts", [1], "must be a finite number"),
        ("init.parent.flops", math.inf, "must be a finite number"),
        ("init.parent.flops", {}, "must be a finite number"),
        ("init.how", {}, "must be a text"),
        ("init.how", 5, "must be a text"),
        ("init.parent.run_id", [], "must be a text"),
    ],
)
def test_a_value_of_another_type_is_one_line(column, value, rule):
    rows = nine()
    rows[-1][column] = value
    with pytest.raises(ValueError, match=rf"^run r8: {column}=.* {rule}"):
        compare_growth(table(*rows))
