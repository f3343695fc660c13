"""Learning and forgetting of a stream, against a matrix worked out by hand."""

import json
import math
from dataclasses import replace

import pytest

from analysis.__main__ import main
from analysis.figures import draw_forgetting
from analysis.forgetting.compare import compare_forgetting
from analysis.forgetting.ways import find_way, read_metrics
from experiments.records.files import write_record
from tests.records.test_record import record

ORDER = ("sea", "farm")


def stream_run(seed, matrix, base=(2.0, 2.1, 2.3), order=ORDER, lr=1e-2, **config):
    """A record of these losses in bits/byte: a row a stage, a column a domain in order."""
    stages = [
        {
            "stage": name,
            "n_steps": 10,
            "scores": {
                "base": {"loss": 1.0, "bits_per_byte": base[i]},
                **{d: {"loss": 1.0, "bits_per_byte": row[k]} for k, d in enumerate(order)},
            },
        }
        for i, (name, row) in enumerate(zip(("start", *order), matrix, strict=False))
    ]
    data = {"corpus": {"order": list(order), "joint": config.pop("joint", False)}}
    return record(
        run_id=f"{seed:012x}", seed=seed, lr=lr, stages=stages, config={"data": data, **config}
    )


THREE = ("sea", "farm", "town")
MATRIX = [
    [3.0, 4.0, 5.0],
    [2.0, 3.8, 5.1],  # sea is learnt: 1.0
    [2.5, 2.8, 4.9],  # farm: 1.0, sea loses 0.5
    [2.2, 3.1, 3.9],  # town: 1.0, farm loses 0.3, sea wins 0.3 back
]


def test_metrics_are_those_of_the_matrix_by_hand():
    found = read_metrics(stream_run(0, MATRIX, (2.0, 2.1, 2.3, 2.2), THREE))
    assert found == pytest.approx(
        {
            "learning": 1.0,
            "forgetting": (0.2 + 0.3) / 2,
            "backward": -(0.2 + 0.3) / 2,
            "forward": (0.2 + 0.1) / 2,  # farm was 4.0 and then 3.8, town 5.0 and then 4.9
            "base": 0.2,
        }
    )


def test_the_best_of_a_domain_may_be_before_its_stage_or_after():
    """Forgetting is measured from it: sea was best at the start, farm after town's
    stage, town at the end.
    """
    matrix = [[2.0, 4.0, 5.0, 3.0], [2.4, 3.9, 5.0, 3.0], [2.6, 3.5, 5.0, 3.0]]
    matrix += [[2.5, 3.1, 4.0, 3.0], [2.7, 3.3, 3.9, 2.0]]
    run = stream_run(0, matrix, (2.0,) * 5, (*THREE, "moor"))
    assert read_metrics(run)["forgetting"] == pytest.approx((0.7 + 0.2 + 0.0) / 3)
    assert read_metrics(run)["backward"] == pytest.approx((-0.3 + 0.2 + 0.1) / 3)


def test_a_joint_stage_learns_all_and_has_no_order():
    run = stream_run(0, [[3.0, 4.0], [2.0, 3.5]], joint=True)
    found = read_metrics(run)
    assert found["learning"] == pytest.approx(0.75)
    assert found["base"] == pytest.approx(0.1)
    assert math.isnan(found["forgetting"])
    assert find_way(run).endswith("joint")


def test_one_domain_alone_has_nothing_to_forget():
    run = stream_run(0, [[3.0], [2.0]], order=("sea",))
    assert read_metrics(run)["learning"] == pytest.approx(1.0)
    assert math.isnan(read_metrics(run)["forgetting"])
    assert find_way(run).endswith("one domain")


def test_ways_are_told_by_what_is_trained_and_kept():
    keep = {"replay": 0.05, "top_rows": 64, "distil": 0.0, "l2": 0.0, "background_steps": 8}
    rows = [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9]]
    tables = stream_run(0, rows, init={"train": "tables", "how": "keep"}, continual=keep)
    assert find_way(tables).split(", ")[1:] == ["tables alone", "top 64 rows", "replay 0.05"]
    assert find_way(stream_run(0, rows, init={"train": "lora", "how": "keep"})).endswith("LoRA")
    assert find_way(stream_run(0, rows, init=None, continual=None)).count(",") == 0


def test_intervals_are_students_over_streams_and_rates_are_apart():
    runs = [stream_run(s, [[3.0, 3.0], [2.0 - 0.1 * s, 3.0], [2.2, 2.0]]) for s in (0, 1, 2)]
    runs += [stream_run(9, [[3.0, 3.0], [2.5, 3.0], [2.5, 2.5]], lr=1e-3)]
    slow, fast = compare_forgetting(runs).ways
    assert (slow.lr, slow.n_runs, fast.n_runs) == (1e-3, 1, 3)
    assert fast.n_orders == 1
    learning = fast.learning
    assert learning.value == pytest.approx(1.05)
    assert learning.upper - learning.value == pytest.approx(4.302652729696 * 0.05 / math.sqrt(3))
    assert math.isnan(slow.learning.lower)
    assert "one stream alone" in compare_forgetting(runs).warnings[0]
    assert "+1.05 (" in compare_forgetting(runs).summary()


def test_tasks_that_all_runs_of_a_way_were_scored_on_are_beside():
    asked = {"acc": 0.5, "bits_per_byte": 2.0}

    def run(seed, **tasks):
        scores = {f"tasks/{name}": score for name, score in tasks.items()}
        made = stream_run(seed, [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9]])
        return replace(made, evaluations={"validation": {"loss": 1.0}, **scores})

    no_choice = {"acc": None, "bits_per_byte": 1.0}
    runs = [run(0, facts=asked, one=asked, told=no_choice)]
    runs += [run(1, facts=asked | {"acc": 0.7}, told=no_choice)]
    found = compare_forgetting(runs)
    (kept,) = found.ways
    assert set(kept.tasks) == {"facts", "told"}
    acc = kept.tasks["facts"]["acc"]
    assert acc.value == pytest.approx(0.6)
    assert acc.upper - acc.value == pytest.approx(12.706204736432 * 0.1)
    assert math.isnan(kept.tasks["told"]["acc"].value)
    (row,) = found.to_frame().to_dict("records")
    assert row["facts_acc"] == acc.value
    assert row["told_bits_per_byte_lower"] == pytest.approx(1.0)
    lines = found.summary().split("\n")
    (table,) = (i for i, line in enumerate(lines) if line.split()[:3] == ["way", "rate", "task"])
    assert "facts 0.6 (" in lines[table + 1]
    assert "share of right choices" in lines[table + 3]
    assert (
        "task"
        not in compare_forgetting([stream_run(0, [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9]])]).summary()
    )


def test_the_figure_has_a_curve_a_way():
    runs = [stream_run(s, [[3.0, 3.0], [2.0, 3.0], [2.2, 2.0 + s / 10]]) for s in (0, 1)]
    runs += [stream_run(9, [[3.0, 3.0], [2.5, 2.5]], joint=True)]
    left, right = draw_forgetting(compare_forgetting(runs)).axes[:2]
    assert len(right.containers) == 2
    assert len(left.containers) == 1
    hollow = [line for axis in (left, right) for line in axis.lines if line.get_zorder() == 3]
    assert sum(len(line.get_xdata()) for line in hollow) == 1  # of the joint run, on the right


def test_a_side_that_no_way_has_is_no_panel():
    one = [stream_run(s, [[3.0, 3.0], [2.5, 2.5 + s / 10]], joint=True) for s in (0, 1)]
    figure = draw_forgetting(compare_forgetting(one))
    (axis,) = figure.axes
    assert "base corpus" in axis.get_ylabel()


def test_a_table_without_streams():
    with pytest.raises(ValueError, match="no run has learnt a stream"):
        compare_forgetting([record()])


def test_the_report_has_it(tmp_path):
    for seed in (0, 1):
        run = stream_run(seed, [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9 + seed / 10]])
        flops = 6.0 * run.n_active_params * run.n_tokens
        asked = {"tasks/facts": {"acc": 0.5 + seed / 10, "bits_per_byte": 2.0}}
        done = replace(
            run, val_loss=3.0 + seed / 10, perplexity=20.0, budget=flops, evaluations=asked
        )
        write_record(tmp_path / run.run_id, done)
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Learning and forgetting" in page
    assert "facts_acc" in page
    assert (tmp_path / "figures" / "forgetting.png").exists()
    assert "forgetting" in json.loads((tmp_path / "fits.json").read_text())


@pytest.mark.parametrize(
    "values",
    [
        {"config": {}}, {"config": {"data": True}}, {"config": {"data": {"corpus": None}}},
        {"config": {"data": {"corpus": {"order": None}}}},
        {"config": {"data": {"corpus": {"order": [{}]}}}},
        {"config": {"data": {"corpus": {"order": []}}}}, {"stages": [{}, {}]},
        {"stages": [{"scores": None}, {"scores": {}}]},
        {"stages": [{"scores": {"base": {"bits_per_byte": "x"}}}] * 3},
        {"stages": [{"scores": {"base": {"bits_per_byte": math.nan}}}] * 3},
    ],
)  # fmt: skip
def test_a_run_that_can_t_be_read_is_named(values):
    odd = replace(stream_run(0, MATRIX, (2.0, 2.1, 2.3, 2.2), THREE), **values)
    with pytest.raises(ValueError, match=r"^run 000000000000: what it learnt can't be read"):
        compare_forgetting([odd])


def test_the_command_goes_on_without_a_run_that_can_t_be_read(tmp_path, capsys):
    for seed in range(3):
        run = stream_run(seed, MATRIX, (2.0, 2.1, 2.3, 2.2), THREE)
        flops = 6.0 * run.n_active_params * run.n_tokens
        odd = {} if seed else {"config": {}}
        run = replace(run, val_loss=3.0 + seed / 10, perplexity=20.0, budget=flops, **odd)
        write_record(tmp_path / str(seed), run)
    assert main(["compare", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("warning: excluded: run 000000000000: ")
    assert err.count("\n") == 1
    assert " 2 " in out


@pytest.mark.parametrize(
    "config", [{"init": {"train": []}}, {"init": "x"}, {"continual": {"replay": "much"}}]
)
def test_an_odd_way_is_refused(config):
    run = stream_run(0, MATRIX, (2.0, 2.1, 2.3, 2.2), THREE, **config)
    with pytest.raises(ValueError, match="can't be read"):
        compare_forgetting([run])
