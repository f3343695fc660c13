"""Runs that share a trunk are drawn together, and then intervals hold what they say."""

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.experts.fit import fit_expert_law
from analysis.fitting.clusters import cluster_codes, describe_draws, drawn_counts, few_clusters
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.surfaces.fit import fit_surface
from analysis.synthetic import ChinchillaSurface, ClarkSurface, simulate_experts
from analysis.table.load import check_table
from analysis.table.trunks import find_trunks

SURFACE = ChinchillaSurface()


def trunks(seed=0, n_trunks=16, shared=0.01, own=0.001):
    """Runs of eight sizes, two of each, and six checkpoints of each, whose losses share a fault."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, size in enumerate(np.repeat(np.geomspace(1e8, 3e9, n_trunks // 2), 2)):
        fault = rng.normal(0, shared)
        for ratio in np.geomspace(5, 160, 6):
            tokens = ratio * size
            loss = float(SURFACE.loss(size, tokens)) * np.exp(fault + rng.normal(0, own))
            rows.append({"name": f"run{k}", "n_params": size, "n_tokens": tokens, "loss": loss})
    return pd.DataFrame(rows)


def test_whole_clusters_are_drawn():
    codes = cluster_codes(["b", "a", "b", "c"], 4)
    counts = drawn_counts(4, 500, np.random.default_rng(0), codes)
    assert (counts[:, 0] == counts[:, 2]).all()
    units = counts[:, [0, 1, 3]]  # one of each cluster
    assert (units.sum(axis=1) == 3).all()
    assert units.mean(axis=0) == pytest.approx([1, 1, 1], abs=0.1)
    assert describe_draws(500, codes) == "percentiles of 500 draws of 3 clusters"
    assert few_clusters(codes)[0].startswith("3 clusters: ")
    assert few_clusters(np.arange(5)) == few_clusters(None) == ()


@pytest.mark.night
def test_intervals_of_trunks_hold_the_truth_where_those_of_points_do_not():
    hits = []
    for seed in range(200):
        runs = trunks(seed)
        columns = [runs[name] for name in ("n_params", "n_tokens", "loss")]
        found = {
            "points": fit_parametric(*columns, n_draws=100),
            "trunks": fit_parametric(*columns, n_draws=100, groups=runs["name"]),
        }
        # At the largest size: what the trunks' faults move
        truth = float(SURFACE.loss(3e9, 2e11))
        predicted = {how: fit.predict(3e9, 2e11) for how, fit in found.items()}
        hits.append([p.lower <= truth <= p.upper for p in predicted.values()])
    by_points, by_trunks = np.mean(hits, axis=0)
    # 16 trunks: percentiles of so few are narrow by a few per cent themselves
    assert by_trunks > 0.85
    assert by_points < 0.75


def test_a_shared_fault_widens_the_interval_of_each_fit():
    runs = trunks()
    columns = [runs[name] for name in ("n_params", "n_tokens", "loss")]
    for fit in (fit_parametric, lambda *v, **how: fit_surface(*v, "chinchilla", **how)):
        alone, together = (fit(*columns, n_draws=60, groups=g) for g in (None, runs["name"]))
        assert together.params == pytest.approx(alone.params)
        widths = [float(np.ptp(f.predict(3e9, 2e11)[1:3])) for f in (alone, together)]
        assert widths[1] > 1.5 * widths[0]
        assert "16 clusters" in together.interval


def test_clusters_reach_the_laws_of_experts():
    table = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1, 4, 16, 64], noise=0.01)
    table["trunk"] = [f"t{i % 4}" for i in range(len(table))]
    fit = fit_expert_law(table, "loglinear", cluster="trunk", n_draws=20)
    assert fit.interval == "percentiles of 20 draws of 4 clusters"
    assert any(text.startswith("4 clusters: ") for text in fit.warnings)
    alone = fit_expert_law(table, "loglinear", n_draws=20)
    assert fit.params == alone.params
    assert "clusters" not in " ".join(alone.warnings)


def isoflop_trunks(seed=0):
    """One run of each size, and its checkpoints are the curves of four budgets."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, size in enumerate(np.geomspace(5e7, 5e9, 12)):
        fault = rng.normal(0, 0.01)
        for budget in (1e19, 3e19, 1e20, 3e20):
            tokens = budget / (6 * size)
            loss = float(SURFACE.loss(size, tokens)) + fault
            rows.append(
                {"model": "dense", "name": f"run{k}", "budget": budget, "n_params": size}
                | {"n_tokens": tokens, "loss": loss}
            )
    return pd.DataFrame(rows)


def test_isoflop_draws_the_runs_of_all_budgets_together():
    table = check_table(isoflop_trunks())
    alone, together = (fit_isoflop(table, n_draws=100, cluster=c) for c in (None, "name"))
    (law,), (plain,) = together.laws, alone.laws
    assert set(plain.exponents["loss"]) == {"t", "noise", "case", "jackknife"} - (
        {"jackknife"} if "jackknife" not in plain.exponents["loss"] else set()
    )
    assert "cluster" in law.exponents["n_params"]
    assert "case" not in law.exponents["n_params"]
    assert law.n_clusters == 12
    assert "12 clusters of runs" in law.summary()
    assert [c.x_opt for c in together.curves] == [c.x_opt for c in alone.curves]


@pytest.mark.night
def test_a_table_of_checkpoints_is_warned_of(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    trunks().assign(model="dense").to_csv(path, index=False)
    command = ["parametric", str(path), "--draws", "10"]
    assert main(command) == 0
    error = capsys.readouterr().err
    assert "96 rows are checkpoints or branches of fewer runs, e.g. name=run0" in error
    assert "--cluster name draws whole runs" in error
    assert main([*command, "--cluster", "name"]) == 0
    found = capsys.readouterr()
    assert "checkpoints" not in found.err
    assert "percentiles of 10 draws of 16 clusters" in found.out
    assert main([*command, "--cluster", "trunk"]) == 2
    assert "error: --cluster trunk is no column; found" in capsys.readouterr().err


def test_checkpoints_may_have_one_run_id_and_copies_may_not():
    runs = trunks().rename(columns={"name": "run_id"}).assign(model="dense")
    table = check_table(runs)
    assert "run_id=run0" in find_trunks(table)
    assert find_trunks(check_table(runs.drop(columns="run_id"))) is None
    with pytest.raises(ValueError, match="run_id='run0' occurs twice"):
        check_table(pd.concat([runs, runs.head(1).assign(loss=3.0)], ignore_index=True))
