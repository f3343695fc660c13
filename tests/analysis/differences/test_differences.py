"""Noise of seeds and differences beside it, against numbers worked out by hand."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import (
    FitError,
    FitStatus,
    check_table,
    compare_by,
    compare_models,
    draw_seconds,
    seed_noise,
)
from analysis.__main__ import main
from analysis.figures.seconds import training_seconds


def rows(model, losses, *, n_params=1e6, budget=1e12, lr=1e-2, **more):
    return [
        {
            "model": model, "loss": loss, "seed": seed, "n_params": n_params, "budget": budget,
            "lr": lr, "n_tokens": budget / 6 / n_params, "n_layers": 2, **more,
        }
        for seed, loss in enumerate(losses)
    ]  # fmt: skip


@pytest.fixture
def table():
    return check_table(
        pd.DataFrame(
            [
                *rows("dense", [4.00, 4.02, 4.04]),
                *rows("dense", [3.9], n_params=2e6),
                *rows("peer", [3.90, 3.90, 3.96]),
                *rows("peer", [3.80], lr=2e-2),
                *rows("pkm", [4.1]),
                *rows("dense", [3.5, 3.5], budget=1e13),
            ]
        )
    )


def test_noise_is_pooled_over_settings_and_never_over_learning_rates(table):
    noise = seed_noise(table)
    squares = 2 * 0.02**2 + (0.02**2 + 0.02**2 + 0.04**2) + 0.0
    assert (noise.dof, noise.n_cells) == (5, 3)
    assert noise.sd == pytest.approx(math.sqrt(squares / 5), rel=1e-12)


def test_differences_are_of_means_with_the_noise_of_their_budget(table):
    found = compare_models(table)
    assert (found.budget, found.baseline, found.status) == (1e12, "dense", FitStatus.CONVERGED)
    assert [(m.model, m.n_seeds) for m in found.means] == [("peer", 3), ("dense", 3)]
    peer = found.means[0]
    assert peer.loss == pytest.approx(3.92, rel=1e-12)
    assert peer.sd == pytest.approx(np.std([3.90, 3.90, 3.96], ddof=1), rel=1e-12)
    squares = 2 * 0.02**2 + (0.02**2 + 0.02**2 + 0.04**2)  # of this budget alone
    assert (found.noise.dof, found.noise.n_cells) == (4, 2)
    assert found.noise.sd == pytest.approx(math.sqrt(squares / 4), rel=1e-12)
    width = stats.t.ppf(0.975, 4) * found.noise.sd * math.sqrt(2 / 3)
    assert peer.difference == pytest.approx((-0.10, -0.10 - width, -0.10 + width), rel=1e-9)
    assert math.isnan(found.means[1].difference.value)
    narrow = compare_models(table, level=0.5).means[0].difference
    assert narrow.upper - narrow.lower < 2 * width


def test_p_values_are_corrected_for_all_that_are_compared(capsys, tmp_path):
    losses = {
        "dense": [4.00, 4.02, 3.98], "near": [4.00, 4.01, 4.05], "low": [3.96, 3.97, 3.95],
        "lower": [3.90, 3.93, 3.91], "lowish": [3.97, 3.94, 3.98],
    }  # fmt: skip
    runs = pd.DataFrame([row for model, of in losses.items() for row in rows(model, of)])
    runs.to_csv(tmp_path / "runs.csv", index=False)
    assert main(["differences", str(tmp_path / "runs.csv"), "--holm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    others = [model for model in losses if model != "dense"]
    sd = math.sqrt(np.mean([np.var(of, ddof=1) for of in losses.values()]) * 2 / 3)
    away = {m: abs(np.mean(losses[m]) - np.mean(losses["dense"])) / sd for m in others}
    p = {m: 2 * stats.t.sf(away[m], 10) for m in others}
    assert found["p"] == pytest.approx(p, rel=1e-9)
    # the smallest that a level could be at which Holm's steps, down to this one, all reject
    for model in others:
        steps = [
            p[m] * sum(p[other] >= p[m] for other in others) for m in others if p[m] <= p[model]
        ]
        assert found["p_holm"][model] == pytest.approx(min(1, max(steps)), rel=1e-9)
    assert main(["differences", str(tmp_path / "runs.csv"), "--holm"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"upper +p +p_holm$", text, re.M)


def test_a_model_s_size_is_that_of_most_seeds_and_of_those_of_the_lowest_mean():
    table = [
        *rows("dense", [3.9, 3.9]),
        *rows("dense", [4.0, 4.0, 4.3], n_params=2e6),
        *rows("dense", [4.3, 4.3, 4.0], n_params=3e6),
        *rows("peer", [3.7, 4.0, 4.0]),
        *rows("peer", [3.8, 3.8, 3.8], n_params=2e6),
        *rows("peer", [3.6], n_params=3e6),
    ]
    found = {m.model: m for m in compare_models(check_table(pd.DataFrame(table))).means}
    assert (found["dense"].n_params, found["dense"].loss) == (2e6, pytest.approx(4.1))
    assert (found["peer"].n_params, found["peer"].loss) == (2e6, pytest.approx(3.8))


@pytest.mark.night
def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    budgets = [1e12 * (1 + i) for i in range(200)]  # of one table, which is checked once
    runs = [
        row
        for budget in budgets
        for row in (
            *rows("dense", 4 + 0.01 * rng.standard_normal(3), budget=budget),
            *rows("peer", 3.95 + 0.01 * rng.standard_normal(3), budget=budget),
            *rows("moe", 4 + 0.01 * rng.standard_normal(2), budget=budget),
        )
    ]
    table = check_table(pd.DataFrame(runs))
    held = 0
    for budget in budgets:
        found = compare_models(table, budget=budget)
        peer = next(m for m in found.means if m.model == "peer").difference
        held += peer.lower <= -0.05 <= peer.upper
    assert 0.92 <= held / len(budgets) <= 0.98  # binomial: 0.95 +- 0.030 at 95 %


def test_two_seeds_are_a_warning_and_one_says_nothing(table):
    two = table[~((table["model"] == "peer") & (table["seed"] == 2))]
    found = compare_models(two)
    assert found.status is FitStatus.WARNING
    assert "peer has 2 seeds" in found.summary()
    alone = table[table["seed"] == 0]
    with pytest.raises(FitError, match="no setting was run with two seeds or more"):
        seed_noise(alone)
    with pytest.raises(
        FitError, match=r"wanted: dense and another; .* two seeds or more have: dense$"
    ):
        compare_models(table, budget=1e13)
    with pytest.raises(FitError, match="wanted: moe and another"):
        compare_models(table, "moe")
    with pytest.raises(ValueError, match="the comparison of seeds needs seed: the table has none"):
        compare_models(check_table(pd.DataFrame(rows("dense", [4.0])).drop(columns="seed")))


@pytest.fixture
def norms():
    """With and without query norm at two numbers of experts, in two sizes that those make."""
    runs = []
    for n_experts, batch, none in (
        (64, [3.90, 3.92], [3.95, 3.99]),
        (256, [3.80, 3.80], [3.82, 3.80]),
    ):
        more = {"n_experts": n_experts, "n_params": 1e3 * n_experts}
        runs += rows("peer", batch, query_norm="batch", **more)
        runs += rows("peer", none, query_norm="none", **more)
    return check_table(pd.DataFrame(runs))


def test_models_are_compared_at_each_value_with_the_noise_of_all(norms):
    found = compare_by(norms, "n_experts", "peer query_norm=batch")
    assert list(found.parts) == ["64", "256"]
    pooled = seed_noise(norms)
    assert pooled.dof == 4
    name = "peer query_norm=none"
    for part, value in zip(found.parts.values(), (0.06, 0.01), strict=True):
        assert part.noise == pooled
        none = next(m for m in part.means if m.model == name).difference
        width = stats.t.ppf(0.975, 4) * pooled.sd
        assert none == pytest.approx((value, value - width, value + width), abs=1e-12)
    assert list(found.average) == [name]
    half = stats.t.ppf(0.975, 4) * pooled.sd / math.sqrt(2)  # twice the runs
    assert found.average[name] == pytest.approx((0.035, 0.035 - half, 0.035 + half), abs=1e-12)
    frame = found.to_frame()
    assert list(frame["n_experts"]) == ["64", "64", "256", "256"]


def test_where_a_value_has_one_seed_its_noise_is_that_of_the_others():
    runs = [
        *rows("dense", [4.00, 4.02], n_params=1e6),
        *rows("peer", [3.96, 3.90], n_params=1e6),
        *[{**run, "n_layers": 4} for run in rows("dense", [4.2], n_params=3e6)],
        *[{**run, "n_layers": 4} for run in rows("peer", [4.1], n_params=3e6)],
        *[{**run, "n_layers": 6} for run in rows("dense", [3.0], n_params=9e6, budget=1e13)],
    ]
    table = check_table(pd.DataFrame(runs))
    found = compare_by(table, "n_layers", budget=1e12)
    assert list(found.parts) == ["2", "4"]  # the size of another budget is not asked for
    sd = math.sqrt((2 * 0.01**2 + 2 * 0.03**2) / 2)
    single = found.parts["4"]
    assert single.noise.sd == pytest.approx(sd, rel=1e-9)
    assert single.status is FitStatus.WARNING
    assert single.warnings == ("dense, peer have 1 seed",)
    assert all(math.isnan(m.sd) for m in single.means)
    width = stats.t.ppf(0.975, 2) * sd * math.sqrt(2)
    peer = single.means[0].difference
    assert peer == pytest.approx((-0.1, -0.1 - width, -0.1 + width), rel=1e-9)
    half = stats.t.ppf(0.975, 2) * sd * math.sqrt(1 / 2 + 1 / 2 + 1 + 1) / 2
    assert found.average["peer"] == pytest.approx((-0.09, -0.09 - half, -0.09 + half), rel=1e-9)
    frame = found.average_frame()
    assert list(frame["model"]) == ["peer"]
    assert frame["minus dense"].tolist() == pytest.approx([-0.09])


def test_where_no_setting_has_seeds_another_budget_s_noise_serves(table, tmp_path, capsys):
    runs = [
        *rows("dense", [3.50], budget=1e13),
        *rows("peer", [3.40], budget=1e13),
        *[{**run, "n_layers": 4} for run in rows("dense", [3.6], n_params=3e6, budget=1e13)],
        *[{**run, "n_layers": 4} for run in rows("peer", [3.44], n_params=3e6, budget=1e13)],
    ]
    path = tmp_path / "runs.csv"
    pd.concat([table[table["budget"] == 1e12], pd.DataFrame(runs)]).to_csv(path, index=False)
    words = ["differences", str(path), "--out", str(tmp_path), "--budget", "1e13"]
    assert main([*words, "--by", "n_layers"]) != 0
    assert "at C=1e+13: no setting was run with two seeds" in capsys.readouterr().err
    assert main([*words, "--by", "n_layers", "--noise-of", "1e12"]) == 0
    sd = math.sqrt((2 * 0.02**2 + (0.02**2 + 0.02**2 + 0.04**2)) / 4)
    out = capsys.readouterr().out
    assert f"noise of one run: {sd:.4f} nats/token, of 4 degrees of freedom in 2 settings" in out
    assert "in 2 settings at C = 1e+12 FLOPs\n  warning: dense, peer have 1 seed" in out
    written = json.loads((tmp_path / "differences.json").read_text())
    assert written["parts"]["2"]["noise"]["budgets"] == [1e12]
    peer = written["average"]["peer"]
    half = stats.t.ppf(0.975, 4) * sd  # four runs, two sizes
    assert [peer[name] for name in ("value", "lower", "upper")] == pytest.approx(
        [-0.13, -0.13 - half, -0.13 + half], rel=1e-9
    )
    assert main([*words, "--noise-of", "1e12"]) == 0
    written = json.loads((tmp_path / "differences.json").read_text())
    assert written["means"][0]["difference"]["value"] == pytest.approx(-0.1)


def test_a_column_to_compare_by_must_be_there_and_have_the_baseline_everywhere(norms):
    with pytest.raises(ValueError, match="by='experts' is no column"):
        compare_by(norms, "experts", "peer query_norm=batch")
    with pytest.raises(FitError, match="wanted: peer query_norm=batch and another"):
        compare_by(norms, "query_norm", "peer query_norm=batch")


def test_the_command_compares_by_a_column(norms, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    norms.to_csv(path, index=False)
    words = ["differences", str(path), "--out", str(tmp_path), "--by", "n_experts"]
    assert main([*words, "--baseline", "peer query_norm=batch"]) == 0
    out = capsys.readouterr().out
    assert "n_experts=256: C = 1e+12 FLOPs" in out
    average = out.split("on the average of 2 n_experts, nats/token:\n")[1].split("\n")
    assert average[0].split() == [
        "model", "minus", "peer", "query_norm=batch", "lower", "upper"
    ]  # fmt: skip
    name, norm, value, *_ = average[1].split()
    assert (name, norm, float(value)) == ("peer", "query_norm=none", pytest.approx(0.035))
    written = json.loads((tmp_path / "differences.json").read_text())
    assert written["average"]["peer query_norm=none"]["value"] == pytest.approx(0.035)


def test_the_command_prints_and_writes(table, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    table.to_csv(path, index=False)
    assert main(["differences", str(path), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "C = 1e+12 FLOPs" in out
    assert "4 degrees of freedom in 2 settings" in out
    written = json.loads((tmp_path / "differences.json").read_text())
    assert written["means"][0]["difference"]["value"] == pytest.approx(-0.1)


def test_seconds_are_tokens_at_the_median_rate_of_the_same_layers():
    table = check_table(
        pd.DataFrame(
            [
                *rows("dense", [4.0, 4.1], tokens_per_second=1e4),
                *rows("dense", [3.8], budget=1e13, tokens_per_second=5e3),  # disturbed
                *rows("dense", [3.9] * 3, budget=3e13, tokens_per_second=2e4, status="failed"),
                *rows("peer", [3.9], tokens_per_second=2e3),
            ]
        )
    )
    seconds = dict(zip(zip(table["model"], table["budget"]), training_seconds(table)))
    assert seconds["dense", 1e12] == pytest.approx(1e12 / 6e6 / 1e4)
    assert seconds["dense", 1e13] == pytest.approx(1e13 / 6e6 / 1e4)
    assert seconds["peer", 1e12] == pytest.approx(1e12 / 6e6 / 2e3)


def test_the_figure_of_seconds_shows_every_cell_and_the_best_of_each_budget():
    runs = []
    for budget in (1e12, 1e13):
        for i, n_params in enumerate((1e6, 2e6, 4e6)):
            loss = 4 - math.log10(budget / 1e12) + 0.05 * (i - 1) ** 2
            for model, shift in (("dense", 0.0), ("peer", -0.1)):
                runs += rows(
                    *(model, [loss + shift]),
                    n_params=n_params, budget=budget, tokens_per_second=1e10 / n_params,
                )  # fmt: skip
    figure = draw_seconds(check_table(pd.DataFrame(runs)))
    small, large, best = figure.axes
    assert [axis.get_title() for axis in figure.axes][-1] == "the best of each budget"
    lines = [line for line in small.lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in lines] == [3, 3]
    assert lines[0].get_xdata() == pytest.approx([1e12 / 6 / 1e10] * 3)
    assert [len(line.get_xdata()) for line in best.lines] == [2, 2]
    assert best.lines[1].get_ydata() == pytest.approx(np.exp([3.9, 2.9]))
    assert best.get_ylim()[1] > np.exp(4.0)  # all of what is best, however far apart
    assert large.get_xlabel().startswith("training time (s")
    with pytest.raises(ValueError, match="no budget has two runs"):
        draw_seconds(check_table(pd.DataFrame(rows("dense", [4.0], tokens_per_second=1.0))))


def test_the_command_compares_only_the_runs_asked_for(tmp_path, capsys):
    rows = [
        {"model": model, "budget": 1e12, "n_params": 2e5, "n_tokens": 1e12 / 6 / 2e5}
        | {"loss": loss + 0.01 * seed, "seed": seed}
        for model, loss in (("dense", 4.0), ("moe", 3.9), ("pkm", 3.8))
        for seed in (0, 1)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "runs.csv", index=False)
    words = ["differences", str(tmp_path / "runs.csv"), "--json", "--where", "model=dense,moe"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [mean["model"] for mean in found["means"]] == ["moe", "dense"]
    assert found["noise"]["n_cells"] == 2
