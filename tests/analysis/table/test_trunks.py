"""Records of branches: their trunks are drawn without being asked for, and are no runs."""

import numpy as np
import pytest

from analysis.fits import TableFits
from analysis.fitting.clusters import joined
from analysis.isoflop.fit import fit_isoflop
from analysis.study import analyse
from analysis.synthetic import ChinchillaSurface
from analysis.table.load import check_table, load_table
from analysis.table.trunks import shared_trunk, trunks_note
from experiments.collect import collect_rows
from experiments.records.files import write_record
from tests.records.test_record import record

SURFACE = ChinchillaSurface()
BUDGETS = (1e19, 3e19, 1e20)


def write_branches(folder, seeds=(0,), n_sizes=6):
    """A trunk for each size and seed, with a fault of its own, and a branch of it a budget."""
    rng = np.random.default_rng(0)
    for k, size in enumerate(np.geomspace(1e8, 3e9, n_sizes)):
        for seed in seeds:
            fault, trunk = rng.normal(0, 0.01), f"trunk{k}s{seed}"
            config = {"optim": {"schedule": "trunk"}}
            shape = {"model": "dense", "n_experts": None, "n_layers": k + 1, "seed": seed}
            shape |= {"n_params": int(size), "n_active_params": int(size)}
            shape |= {"n_non_embedding_params": int(size), "flops_per_token": 6 * size}
            write_record(
                folder / trunk,
                record(run_id=trunk, val_loss=None, config=config, **shape),
            )
            for budget in BUDGETS:
                n_tokens = int(budget / (6 * size))
                run = record(
                    run_id=f"run{k}s{seed}b{budget:.0e}",
                    budget=budget,
                    n_tokens=n_tokens,
                    val_loss=float(SURFACE.loss(size, n_tokens)) + fault,
                    trunk={"run_id": trunk, "n_steps": 8, "flops": 0.8 * budget},
                    **shape,
                )
                write_record(folder / run.run_id, run)


@pytest.fixture
def table(tmp_path):
    write_branches(tmp_path)
    return load_table(tmp_path)


def test_a_table_of_records_has_trunks_for_clusters_and_not_for_rows(table, tmp_path):
    assert len(table) == 6 * 3
    assert table["trunk"].nunique() == 6
    assert shared_trunk(table) == "trunk"
    assert trunks_note(table).startswith("18 runs are branches of 6 trunks, and those of one share")
    rows = collect_rows(tmp_path)
    assert len(rows) == 18
    assert {row["trunk.flops"] / row["budget"] for row in rows} == {0.8}


def test_a_run_of_its_own_is_a_trunk_of_its_own(table):
    table.loc[table["seed"] == 0, "trunk"] = None
    table.loc[0, "trunk"] = "t"
    filled = check_table(table)
    assert filled["trunk"].is_unique
    assert shared_trunk(filled) is None
    assert trunks_note(filled) is None
    assert shared_trunk(table.drop(columns="trunk")) is None
    assert shared_trunk(table.assign(trunk="transformer")) is None  # no run's name


def test_isoflop_and_the_surface_draw_trunks_by_default(table):
    by_default, by_trunk = (fit_isoflop(table, n_draws=50, cluster=c) for c in (None, "trunk"))
    assert by_default.to_dict() == by_trunk.to_dict()
    assert by_default.laws[0].n_clusters == 6
    assert fit_isoflop(table, n_draws=50, cluster="run_id").laws[0].n_clusters == 18
    surface = TableFits(table).surface("dense", "n_params")
    assert surface.interval.endswith("draws of 6 clusters")


def test_cells_that_average_seeds_are_drawn_with_all_their_trunks(tmp_path):
    write_branches(tmp_path, seeds=(0, 1))
    table = load_table(tmp_path)
    assert table["trunk"].nunique() == 12
    assert fit_isoflop(table, n_draws=50).laws[0].n_clusters == 6


def test_the_report_says_that_it_draws_trunks(table):
    study = analyse(table)
    (said,) = [text for text in study.cautions if "trunks" in text]
    assert said == trunks_note(table)
    assert study.parametric["dense"].interval.endswith("draws of 6 clusters")


def test_cells_are_joined_by_the_groups_of_their_runs():
    cells = [0, 0, 1, 2, 2, 3, 4]
    groups = ["a", "b", "b", "c", "d", "d", "e"]
    labels = joined(cells, groups)
    assert labels[0] == labels[1]
    assert labels[2] == labels[3]
    assert len({labels[0], labels[2], labels[4]}) == 3
