"""The third edition's kinds of targets, and Holm's correction over its contrasts."""

import numpy as np
import pytest

from experiments.records.files import read_record
from tests.conftest import run_cache
from tests.study import copying, kinds
from tests.study.records import find, records, welch


def test_losses_of_kinds_are_of_their_targets():
    sums = {"n_tokens": 10, "n_repeated": 2, "n_seen": 3, "nats": 41.0, "nats_repeated": 2.0,
            "nats_seen": 9.0}  # fmt: skip
    assert kinds.by_kind(sums) == {"loss": 4.1, "repeated": 1.0, "seen": 3.0, "neither": 6.0}


def test_the_contrast_is_that_of_four_runs_and_of_the_noise_of_seeds():
    of = {(r.model, r.n_layers): kinds.neither_of(r) for r in find(kinds.THIRD, seed=1)
          if round(r.budget, -12) == 1e14}  # fmt: skip
    assert len(of) == 4
    value = np.mean([of["peer", n] - of["none", n] for n in (5, 7)])
    seeds = {}
    for r in find(kinds.THIRD, n_layers=4):
        if r.config["optim"].get("law"):
            seeds.setdefault(r.model, []).append(kinds.neither_of(r))
    assert {len(own) for own in seeds.values()} == {3}
    sparse, rest = (
        (np.mean([np.var(seeds[m], ddof=1) for m in models]), 2 * len(models))
        for models in (("moe_fine", "pkm", "peer"), ("none", "dense"))
    )
    if kinds.budgets_of_noise() == [1e13]:
        found = welch(value, sparse[0] / 2, rest[0] / 2, sparse[1], rest[1])
        assert [*kinds.neither(), kinds.neither().p] == pytest.approx([*found, found.p])


def test_the_noise_is_the_larger_of_two_budgets(monkeypatch):
    known = {("sparse", 1e13): (0.1, 6), ("sparse", 1e14): (0.2, 3), ("sparse", 3e13): (0.9, 6),
             ("rest", 1e13): (0.3, 4), ("rest", 1e14): (0.2, 2)}  # fmt: skip
    monkeypatch.setattr(kinds, "pooled", lambda score: known)
    assert kinds.noise() == {"sparse": (0.2, 3), "rest": (0.3, 4)}


def test_a_run_begins_at_the_first_line_beyond_the_bound(monkeypatch):
    lines = [{"step": n, "repeated": 3.0 - apart, "seen": 3.0, "neither": 3.0}
             for n, apart in ((10, 1.0), (20, 1.24), (30, 1.26), (40, 1.1))]  # fmt: skip
    monkeypatch.setattr(kinds, "course", lambda run_id: lines)
    assert [kinds.gap(line) for line in lines] == pytest.approx([1.0, 1.24, 1.26, 1.1])
    assert kinds.begins("any")["step"] == 30
    assert kinds.share_of_run({"run_id": "any", "step": 30}) == 0.75
    del lines[2]
    assert kinds.begins("any") is None


def test_the_table_has_each_tenth_of_its_runs():
    steps, known = {}, {r.run_id: r for r in records(kinds.THIRD)}
    of = kinds.shares()
    for row in kinds.read_kept():
        steps.setdefault(row["run_id"], []).append(row["step"])
        assert row["n_tokens"] == row["step"] * known[row["run_id"]].batch_tokens
        assert row["loss"] == pytest.approx(sum(of[k] * row[k] for k in kinds.KINDS), abs=1e-4)
    for run_id, own in steps.items():
        n = known[run_id].n_steps
        assert own == [round(n * tenth / 10) for tenth in range(1, 10)], run_id
        losses = [row["loss"] for row in kinds.course(run_id)]
        assert losses == sorted(losses, reverse=True)
    names = [(r.model, r.n_layers) for r in kinds.scored() if round(r.budget, -12) == 1e14]
    fine = 4 * [("moe_fine", 6)] + 4 * [("peer", 6)]
    assert names == [("none", 5), ("peer", 5), *fine, ("none", 7), ("peer", 7)]


@pytest.mark.long
def test_kept_checkpoints_are_scored_once(trained, command, tmp_path, monkeypatch):
    run_dir = trained("model=peer", "n_experts=256", "trainer.keep_at=[0.5]")
    monkeypatch.setattr(kinds, "TABLE", tmp_path / "copying.csv")
    words = (copying.KEPT, run_dir, run_cache(run_dir))
    assert command(copying, *words)[0] == 0
    record, (row,) = read_record(run_dir / "record.json"), kinds.read_kept()
    assert row["step"] == round(record.n_steps / 2)
    run = copying.Scored(run_dir, [run_cache(run_dir)])
    end = kinds.by_kind(run.sums())  # of the weights of the run's end
    # Both have nats to 1e-4, the record of each document: three such sums make a kind's
    sums = kinds.sums_of(record)
    others = sums["n_tokens"] - sums["n_repeated"] - sums["n_seen"]
    n_targets = min(others, sums["n_repeated"], sums["n_seen"])
    off = 3 * 5e-5 * (1 + len(record.documents["nats"])) / n_targets
    assert end == pytest.approx(kinds.by_kind(sums), rel=1e-6, abs=off)
    assert row["loss"] > end["loss"]
    monkeypatch.setattr(copying, "load_weights", None)  # a second call scores nothing
    assert command(copying, *words)[0] == 0
    assert kinds.read_kept() == [row]
