"""Noise of seeds, differences and multipliers beside it, against numbers worked out by hand."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from analysis import FitError, FitStatus, check_table, compare_by, compare_models, draw_seconds
from analysis import seed_noise as noise_of
from analysis.__main__ import main
from analysis.differences.multipliers import budget_multipliers
from analysis.figures.seconds import training_seconds

DIFFERENCES = ("compare", "--question", "differences")
SQUARES = 2 * 0.02**2 + (0.02**2 + 0.02**2 + 0.04**2)  # of the table's seeds at 1e12


def rows(model, losses, *, n_params=1e6, budget=1e12, lr=1e-2, **more):
    same = {"model": model, "n_params": n_params, "budget": budget, "lr": lr, "n_layers": 2}
    same |= {"n_tokens": budget / 6 / n_params, **more}
    return [{**same, "loss": loss, "seed": seed} for seed, loss in enumerate(losses)]


def made(*parts):
    return check_table(pd.DataFrame([row for part in parts for row in part]))


def around(value, sd, dof, share):
    half = stats.t.ppf(0.975, dof) * sd * math.sqrt(share)
    return pytest.approx((value, value - half, value + half), rel=1e-9, abs=1e-12)


TABLE = (
    *(rows("dense", [4.00, 4.02, 4.04]), rows("dense", [3.9], n_params=2e6)),
    *(rows("peer", [3.90, 3.90, 3.96]), rows("peer", [3.80], lr=2e-2), rows("pkm", [4.1])),
    rows("dense", [3.5, 3.5], budget=1e13),
)


def test_means_and_differences_have_the_noise_of_their_budget_and_rate():
    table = made(*TABLE)
    every = noise_of(table)
    assert (every.dof, every.n_cells, every.sd) == (5, 3, pytest.approx((SQUARES / 5) ** 0.5))
    found = compare_models(table)
    assert (found.budget, found.baseline, found.status) == (1e12, "dense", FitStatus.CONVERGED)
    assert [(m.model, m.n_seeds) for m in found.means] == [("peer", 3), ("dense", 3)]
    peer, sd = found.means[0], math.sqrt(SQUARES / 4)
    assert (peer.loss, peer.sd) == pytest.approx((3.92, np.std([3.90, 3.90, 3.96], ddof=1)))
    assert (found.noise.dof, found.noise.n_cells, found.noise.sd) == (4, 2, pytest.approx(sd))
    assert peer.difference == around(-0.10, sd, 4, 2 / 3)
    assert math.isnan(found.means[1].difference.value)
    narrow = compare_models(table, level=0.5).means[0].difference
    assert narrow.upper - narrow.lower < peer.difference.upper - peer.difference.lower
    two = compare_models(table[~((table["model"] == "peer") & (table["seed"] == 2))])
    assert two.status is FitStatus.WARNING
    assert "peer has 2 seeds" in two.summary()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda t: noise_of(t[t["seed"] == 0]), "no setting was run with two seeds or more"),
        (
            lambda t: compare_models(t, budget=1e13),
            "and another; .* two seeds or more have: dense$",
        ),
        (lambda t: compare_models(t, "moe"), "wanted: moe and another"),
        (lambda t: compare_models(t.drop(columns="seed")), "seeds needs seed: the table has none"),
        (lambda t: compare_by(t, "experts", "dense"), "by='experts' is no column"),
        (lambda t: compare_by(t, "lr"), "wanted: dense and another"),
    ],
)
def test_what_cannot_be_compared_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(made(*TABLE))


def test_a_model_s_size_is_that_of_most_seeds_and_of_those_of_the_lowest_mean():
    table = made(
        *(rows("dense", [3.9, 3.9]), rows("dense", [4.0, 4.0, 4.3], n_params=2e6)),
        *(rows("dense", [4.3, 4.3, 4.0], n_params=3e6), rows("peer", [3.7, 4.0, 4.0])),
        *(rows("peer", [3.8, 3.8, 3.8], n_params=2e6), rows("peer", [3.6], n_params=3e6)),
    )
    found = {m.model: (m.n_params, m.loss) for m in compare_models(table).means}
    assert found == {"dense": (2e6, pytest.approx(4.1)), "peer": (2e6, pytest.approx(3.8))}


@pytest.mark.night
def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, budgets = np.random.default_rng(0), [1e12 * (1 + i) for i in range(200)]
    means = {"dense": (4, 3), "peer": (3.95, 3), "moe": (4, 2)}
    draws = [(m, mean + 0.01 * rng.standard_normal(n), b)
             for b in budgets for m, (mean, n) in means.items()]  # fmt: skip
    table = made(*(rows(model, losses, budget=b) for model, losses, b in draws))
    found = [
        compare_models(table, budget=budget).to_frame().set_index("model") for budget in budgets
    ]
    held = [f.loc["peer", "lower"] <= -0.05 <= f.loc["peer", "upper"] for f in found]
    assert 0.92 <= np.mean(held) <= 0.98  # binomial: 0.95 +- 0.030 at 95 %


def test_models_are_compared_at_each_value_with_the_noise_of_all():
    table = made(
        *(rows("dense", [4.00, 4.02]), rows("peer", [3.96, 3.90])),
        *(rows(m, [loss], n_params=3e6, n_layers=4) for m, loss in (("dense", 4.2), ("peer", 4.1))),
        rows("dense", [3.0], n_params=9e6, budget=1e13, n_layers=6),  # not asked for
    )
    found, sd = (
        compare_by(table, "n_layers", budget=1e12),
        math.sqrt((2 * 0.01**2 + 2 * 0.03**2) / 2),
    )
    assert list(found.parts) == ["2", "4"]
    assert list(found.to_frame()["n_layers"]) == ["2", "2", "4", "4"]
    assert all(part.noise == noise_of(table) for part in found.parts.values())
    single = found.parts["4"]
    assert (single.status, single.warnings) == (FitStatus.WARNING, ("dense, peer have 1 seed",))
    assert all(math.isnan(m.sd) for m in single.means)
    assert single.means[0].difference == around(-0.1, sd, 2, 2)
    assert found.average == {"peer": around(-0.09, sd, 2, (1 / 2 + 1 / 2 + 1 + 1) / 4)}
    (average,) = found.tables()
    frame = average.frame()
    assert frame[["model", "minus dense"]].to_numpy().tolist() == [["peer", pytest.approx(-0.09)]]


@pytest.fixture
def run(tmp_path, capsys):
    """run(parts, *words): what the command prints and writes."""

    def command(parts, *words):
        made(*parts).to_csv(tmp_path / "runs.csv", index=False)
        code = main([*DIFFERENCES, str(tmp_path / "runs.csv"), "--out", str(tmp_path), *words])
        out, err = capsys.readouterr()
        return json.loads((tmp_path / "differences.json").read_text()) if code == 0 else err, out

    return command


def test_p_values_are_corrected_for_all_that_are_compared(run):
    losses = {
        "dense": [4.00, 4.02, 3.98], "near": [4.00, 4.01, 4.05], "low": [3.96, 3.97, 3.95],
        "lower": [3.90, 3.93, 3.91], "lowish": [3.97, 3.94, 3.98],
    }  # fmt: skip
    found, text = run([rows(model, of) for model, of in losses.items()], "--holm")
    assert re.search(r"upper +p +p_holm$", text, re.M)
    sd = math.sqrt(np.mean([np.var(of, ddof=1) for of in losses.values()]) * 2 / 3)
    away = {m: abs(np.mean(of) - 4) / sd for m, of in losses.items() if m != "dense"}
    p = {m: 2 * stats.t.sf(t, 10) for m, t in away.items()}
    # the smallest that a level could be at which Holm's steps, down to this one, all reject
    steps = {m: p[m] * sum(p[other] >= p[m] for other in p) for m in p}
    holm = {m: min(1, max(steps[other] for other in p if p[other] <= p[m])) for m in p}
    assert (found["p"], found["p_holm"]) == (pytest.approx(p), pytest.approx(holm))


def test_the_command_takes_another_budget_s_noise_a_column_and_some_runs(run):
    found, out = run(TABLE)
    assert "C = 1e+12 FLOPs" in out
    assert found["means"][0]["difference"]["value"] == pytest.approx(-0.1)
    losses = (("dense", 1, 3.5), ("peer", 1, 3.4), ("dense", 4, 3.6), ("peer", 4, 3.44))
    later = [rows(m, [loss], budget=1e13, n_layers=k, n_params=k * 1e6) for m, k, loss in losses]
    words = [*TABLE[:-1], *later], "--budget", "1e13", "--by", "n_layers"
    assert "at C=1e+13: no setting was run with two seeds" in run(*words)[0]
    found, out = run(*words, "--noise-of", "1e12")
    sd = math.sqrt(SQUARES / 4)
    assert f"noise of one run: {sd:.4f} nats/token, of 4 degrees of freedom in 2 settings" in out
    assert "in 2 settings at C = 1e+12 FLOPs\n  warning: dense, peer have 1 seed" in out
    assert found["parts"]["1"]["noise"]["budgets"] == [1e12]
    assert tuple(found["average"]["peer"].values()) == around(-0.13, sd, 4, 1)
    average = out.split("on the average of 2 n_layers, nats/token:\n")[1].split("\n")
    assert average[0].split() == ["model", "minus", "dense", "lower", "upper"]
    assert average[1].split()[:2] == ["peer", "-0.13"]
    parts = [rows(m, [loss, loss + 0.01]) for m, loss in (("dense", 4), ("moe", 3.9), ("pkm", 3.8))]
    found, _ = run(parts, "--where", "model=dense,moe")
    assert [mean["model"] for mean in found["means"]] == ["moe", "dense"]
    assert found["noise"]["n_cells"] == 2


def test_seconds_are_tokens_at_the_median_rate_of_the_same_layers():
    table = made(
        rows("dense", [4.0, 4.1], tokens_per_second=1e4),
        rows("dense", [3.8], budget=1e13, tokens_per_second=5e3),  # disturbed
        rows("dense", [3.9] * 3, budget=3e13, tokens_per_second=2e4, status="failed"),
        rows("peer", [3.9], tokens_per_second=2e3),
    )
    seconds = dict(zip(zip(table["model"], table["budget"]), training_seconds(table)))
    cells = [seconds[key] for key in (("dense", 1e12), ("dense", 1e13), ("peer", 1e12))]
    assert cells == pytest.approx([1e6 / 6 / 1e4, 1e7 / 6 / 1e4, 1e6 / 6 / 2e3])


def test_the_figure_of_seconds_shows_every_cell_and_the_best_of_each_budget():
    cells = [(b, i, m) for b in (1e12, 1e13) for i in range(3) for m in ("dense", "peer")]
    figure = draw_seconds(made(*(
        rows(m, [4 - math.log10(b / 1e12) + 0.05 * (i - 1) ** 2 - 0.1 * (m == "peer")], budget=b,
             n_params=1e6 * 2**i, tokens_per_second=1e4 / 2**i)
        for b, i, m in cells
    )))  # fmt: skip
    small, large, best = figure.axes
    assert best.get_title() == "the best of each budget"
    lines = [line for line in small.lines if line.get_linestyle() == "-"]
    assert [len(line.get_xdata()) for line in lines] == [3, 3]
    assert lines[0].get_xdata() == pytest.approx([1e12 / 6 / 1e10] * 3)
    assert best.lines[1].get_ydata() == pytest.approx(np.exp([3.9, 2.9]))
    assert best.get_ylim()[1] > np.exp(4.0)  # all of what is best, however far apart
    assert large.get_xlabel().startswith("training time (s")
    with pytest.raises(ValueError, match="no budget has two runs"):
        draw_seconds(made(rows("dense", [4.0], tokens_per_second=1.0)))


BUDGETS = np.array([1e12, 4e12, 1e13])
LOSSES = {"dense": (4.0, 3.5, 3.3), "peer": (3.8, 3.4, 3.1), "moe": (4.1, 3.6, 3.35)}


def differences(noise=0.01, **losses):
    rng = np.random.default_rng(0)
    each = [(m, b, x) for m, of in {**LOSSES, **losses}.items() for b, x in zip(BUDGETS, of)]
    table = made(*(rows(m, x + rng.normal(0, noise, 3), budget=b) for m, b, x in each))
    return {budget: compare_models(table, budget=budget) for budget in BUDGETS}


def log_factor(own, baseline, i):
    """Where the baseline's line has the loss: found by a search, not by its equation."""
    x = np.log(BUDGETS)

    def line(at):
        k = 0 if at < x[1] else 1
        return baseline[k] + (at - x[k]) / (x[k + 1] - x[k]) * (baseline[k + 1] - baseline[k])

    return optimize.brentq(lambda at: line(at) - own[i], x[0] - 30, x[-1] + 30) - x[i]


@pytest.mark.parametrize("model", ["peer", "moe"])
@pytest.mark.parametrize("i", range(3))
def test_a_factor_is_where_the_line_has_the_loss_with_the_noise_of_all_three(model, i):
    found = differences()
    arms = [[next(m.loss for m in d.means if m.model == name) for d in found.values()]
            for name in (model, "dense")]  # fmt: skip
    slopes = np.zeros((2, 3))
    for arm, k in np.ndindex(2, 3):
        moved = np.array(arms)
        moved[arm, k] += 1e-6
        slopes[arm, k] = (log_factor(*moved, i) - log_factor(*arms, i)) / 1e-6
    sds, dofs = np.array([(d.noise.sd, d.noise.dof) for d in found.values()]).T
    parts = (slopes**2).sum(axis=0) * sds**2 / 3
    half = stats.t.ppf(0.975, parts.sum() ** 2 / (parts**2 / dofs).sum()) * parts.sum() ** 0.5
    value, lower, upper = np.log(budget_multipliers(found).factors[BUDGETS[i]][model])
    assert value == pytest.approx(log_factor(*arms, i), abs=1e-9)
    assert (value - lower, upper - value) == pytest.approx((half, half), rel=1e-4)


def test_a_line_that_is_continued_is_a_warning_and_what_has_none_is_refused():
    found = budget_multipliers(differences())
    assert [text.partition(" for ")[2] for text in found.warnings] == ["moe", "peer"]
    assert "at C=1e13 the line of dense is continued beyond its budgets" in found.warnings[1]
    assert found.status is not FitStatus.CONVERGED
    inside = {"peer": (3.8, 3.4, 3.31), "moe": (3.9, 3.45, 3.305)}
    assert budget_multipliers(differences(1e-4, **inside)).warnings == ()
    with pytest.raises(FitError, match="fewer than two budgets with several seeds"):
        budget_multipliers({1e12: differences()[1e12]})
    with pytest.raises(FitError, match="loss of dense does not fall from 4e12 to 1e13 FLOPs"):
        budget_multipliers(differences(dense=(4.0, 3.5, 3.6)))
