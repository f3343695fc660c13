"""The search of the layers since 2024, and the rates that experiment=zoo has of it."""

import pytest
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir
from experiments.records.record import find_records, read_record
from tests.study.committed import RESULTS

N_TRIALS = 4
MODELS = {
    "dense", "none", "moe_fine", "pkm", "peer", "sgatlin", "peer_narrow", "memory_plus", "omni",
    "ultramem", "stem", "engram",
}  # fmt: skip
LARGE = {("peer_narrow", 65536), ("memory_plus", 32400)}  # with PEER's parameters


def cells_of(sweep):
    """(model, n_experts): its records."""
    found = {}
    for path in find_records(RESULTS / sweep):
        record = read_record(path)
        found.setdefault((record.model, record.n_experts), []).append(record)
    return found


@pytest.fixture(scope="module")
def trials():
    return cells_of("zoo_rates")


def test_every_layer_had_as_many_trials(trials):
    assert {model for model, _ in trials} == MODELS
    assert trials.keys() >= LARGE
    assert len(trials) == len(MODELS) + len(LARGE)
    for cell, records in trials.items():
        assert [r.status for r in records] == ["done"] * N_TRIALS, cell
        assert len({r.lr for r in records}) == N_TRIALS
        assert {r.seed for r in records} == {0}
        for r in records:
            assert r.achieved_flops == pytest.approx(1e13, rel=2e-3)
            assert (r.n_layers, r.d_model) == (4, 64)


def test_each_rate_is_that_of_the_best_trial(trials):
    best = {cell: min(records, key=lambda r: r.val_loss).lr for cell, records in trials.items()}
    yaml = OmegaConf.load(conf_dir() / "experiment" / "zoo.yaml")
    grids = {
        (grid["model"], grid.get("n_experts")): grid["ladder.lr"]
        for grid in yaml.hydra.sweeper.grids
    }
    own = {(m, None if (m, n) not in LARGE else n): lr for (m, n), lr in best.items()}
    assert grids == pytest.approx(own)


def test_large_tables_are_as_large_as_peer_s(trials):
    peer = trials["peer", 16384][0].n_params
    for cell in (*LARGE, ("sgatlin", 16384), ("engram", 131072), ("omni", 16384)):
        assert trials[cell][0].n_params == pytest.approx(peer, rel=0.015)
