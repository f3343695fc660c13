"""Searches by journal and records: what is asked, told, and tried again.

Workers are made up: they write records. tests/sweep/test_search_runs.py has real ones.
"""

import math
import warnings

import pytest

from experiments.sweep.search_table import read_cells
from experiments.sweep.states import read_states
from experiments.sweep.study import JOURNAL_NAME
from tests.sweep.searches import LR, Workers, asked, finish, lr, parabola, rules

pytest.importorskip("optuna")


def test_a_search_asks_runs_and_tells_until_its_trials_are_done(cell, go, sweep, capsys):
    workers = Workers()
    assert go([cell()], rules(n_trials=12), workers) == 0
    assert len(workers.ran) == 12
    (found,) = read_cells(sweep)
    assert found.counts() == {"done": 12, "diverged": 0, "failed": 0, "running": 0, "left": 0}
    best = found.best()
    assert best.value == min(map(parabola, workers.ran))
    assert best.value < 3.02  # within 15 % of the best rate; the ends are at 4.9 and 5.6
    # what the journal has is what was run, to the bit, and short
    assert [t.params["ladder.lr"] for t in found.trials] == [lr(p) for p in workers.ran]
    assert all(len(f"{lr(p):e}".split("e")[0].rstrip("0")) <= 5 for p in workers.ran)
    assert best.runs == (min(workers.ran, key=parabola).run_id,)
    out = capsys.readouterr().out
    assert "sweep s: 12 of 12 trials, 1 at a time" in out
    labels = [state.label for state in read_states(sweep)]
    assert f"dense size=1 budget=1e+09 seed=0 lr={lr(workers.ran[0])}" in labels
    assert go([cell()], rules(n_trials=12), Workers(None)) == 0  # and then none
    more = Workers()
    assert go([cell()], rules(n_trials=13), more) == 0
    assert len(more.ran) == 1


def test_an_interrupted_search_draws_what_an_uninterrupted_one_draws(cell, go, sweep, tmp_path):
    whole = Workers()
    assert go([cell()], rules(n_trials=9), whole) == 0
    expected = asked(sweep)
    sweep.rename(tmp_path / "whole")
    pieces = []
    for _ in range(10):
        piece = Workers(stop_after=1)
        if go([cell()], rules(n_trials=9), piece) == 0:
            break
        pieces += piece.ran
    assert asked(sweep) == expected
    assert [p.run_id for p in [*pieces, *piece.ran]] == [p.run_id for p in whole.ran]
    # without its journal the search asks the same again, and nothing is run twice
    (sweep / JOURNAL_NAME).unlink()
    assert go([cell()], rules(n_trials=9), Workers(None)) == 0
    assert asked(sweep) == expected
    other = Workers()
    (tmp_path / "whole").rename(tmp_path / "first")
    assert go([cell()], rules(n_trials=9, seed=1), other) == 0  # its trials are done, whatever seed
    assert other.ran == []


def test_the_first_values_are_asked_first_and_then_it_draws(cell, go, sweep):
    first = [{"ladder.lr": 1e-2}, {"optim.table_lr": 2.0}, {"ladder.lr": 5e-3}]
    spaces = {**LR, "optim.table_lr": "log(.5, 8)"}
    given = rules(spaces, n_trials=5)
    assert go([cell("peer", first=first)], given, Workers()) == 0
    expected = asked(sweep)
    drawn = [params for _, params, _ in expected]
    assert drawn[0]["ladder.lr"] == 1e-2
    assert drawn[1]["optim.table_lr"] == 2.0
    assert drawn[2]["ladder.lr"] == 5e-3
    others = [drawn[0]["optim.table_lr"], drawn[1]["ladder.lr"], drawn[3]["ladder.lr"]]
    assert not set(others) & {1e-2, 5e-3, 2.0}
    assert len({params["ladder.lr"] for params in drawn}) == 5
    # the same if each command runs one
    sweep.rename(sweep.with_name("whole"))
    for _ in range(6):
        if go([cell("peer", first=first)], given, Workers(stop_after=1)) == 0:
            break
    assert asked(sweep) == expected
    # other values may be added later; those that were tried are not asked again
    more, added = Workers(), {"ladder.lr": 2e-2, "optim.table_lr": 1.0}
    assert go([cell("peer", first=[added, *first])], rules(spaces, n_trials=6), more) == 0
    assert [lr(p) for p in more.ran] == [2e-2]


def test_first_values_that_have_their_records_are_no_work(cell, go, sweep, capsys):
    first = [{"ladder.lr": value} for value in (1e-2, 5e-3, 2e-2)]
    before = Workers()
    assert go([cell(first=first[1:])], rules(n_trials=2), before) == 0
    (sweep / JOURNAL_NAME).unlink()
    (sweep / before.ran[1].run_id / "record.json").unlink()  # of 5e-3 there is a record
    after, given = Workers(stop_after=0), rules(n_trials=4)
    assert go([cell("dense", "dry_run=true", first=first)], given, after) == 0
    plan = capsys.readouterr().out
    assert "4 trials, 1 of them known already, 2.99e+09 FLOPs" in plan  # three runs
    go([cell(first=first)], given, after)
    assert after.n_expected == 3
    states = [(state, params["ladder.lr"]) for state, params, _ in asked(sweep)]
    assert states == [("complete", 5e-3), ("running", 1e-2)]
    assert "3 of 4 trials" in capsys.readouterr().out
    # by the journal: the same, and the one that runs is to be run
    go([cell("dense", "dry_run=true", first=first)], given, after)
    assert "4 trials, 1 of them known already, 2.99e+09 FLOPs" in capsys.readouterr().out
    rest = Workers()
    assert go([cell(first=first)], given, rest) == 0
    assert [lr(p) for p in rest.ran][:2] == [1e-2, 2e-2]
    assert len(rest.ran) == 3


def test_a_first_value_that_failed_is_tried_again_and_the_others_come_too(cell, go, sweep):
    given, first = rules(n_trials=3), [{"ladder.lr": 1e-2}, {"ladder.lr": 5e-3}]
    broken = Workers(lambda p: ("failed", None) if lr(p) == 1e-2 else ("done", parabola(p)))
    assert go([cell(first=first)], given, broken) == 1
    assert [lr(p) for p in broken.ran][:2] == [1e-2, 5e-3]
    healed = Workers()
    assert go([cell(first=first)], given, healed) == 0
    assert [lr(p) for p in healed.ran] == [1e-2]


def test_another_seed_draws_other_trials(cell, go, sweep):
    assert go([cell()], rules(n_trials=2), Workers()) == 0
    (sweep / JOURNAL_NAME).unlink()
    other = Workers()
    assert go([cell()], rules(n_trials=2, seed=1), other) == 0
    assert len(other.ran) == 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_equal_points_are_one_run(cell, go, sweep, sampler):
    workers = Workers()
    given = rules({"optim.table_lr": [1.0, 2.0]}, n_trials=8, sampler=sampler)
    assert go([cell("peer")], given, workers) == 0
    assert len({p.run_id for p in workers.ran}) == len(workers.ran) == 2
    (found,) = read_cells(sweep)
    assert found.counts()["done"] == 8


def test_a_point_that_a_grid_has_run_is_told_at_once(cell, go, sweep):
    first = Workers()
    assert go([cell()], rules(n_trials=3), first) == 0
    (sweep / JOURNAL_NAME).unlink()
    (sweep / "manifest.jsonl").unlink()
    last = first.ran[-1]
    (last.run_dir / "record.json").unlink()
    again = Workers()
    assert go([cell()], rules(n_trials=3), again) == 0
    assert [p.run_id for p in again.ran] == [last.run_id]


def test_diverged_is_worst_and_never_best(cell, go, sweep, capsys):
    workers = Workers(lambda p: ("diverged", None) if lr(p) > 6e-3 else ("done", parabola(p)))
    assert go([cell()], rules(n_trials=6), workers) == 0
    (found,) = read_cells(sweep)
    n = sum(lr(p) > 6e-3 for p in workers.ran)
    assert 0 < n < 6
    assert (found.counts()["diverged"], found.counts()["done"]) == (n, 6 - n)
    assert found.best().value == min(parabola(p) for p in workers.ran if lr(p) <= 6e-3)
    values = [t.value for t in found.trials]
    assert values.count(math.inf) == n
    assert go([cell()], rules(n_trials=6), Workers(None)) == 0  # it would diverge again
    # retry=all starts diverged runs again, and their new outcome counts
    healed = Workers()
    assert go([cell("dense", "retry=all")], rules(n_trials=6), healed) == 0
    assert sorted(map(lr, healed.ran)) == sorted(lr(p) for p in workers.ran if lr(p) > 6e-3)
    (found,) = read_cells(sweep)
    assert found.counts() == {"done": 6, "diverged": 0, "failed": 0, "running": 0, "left": 0}


def test_a_gaussian_process_says_nothing_of_a_run_that_diverged(cell, go, sweep, capfd):
    workers = Workers(lambda p: ("diverged", None) if lr(p) > 6e-3 else ("done", parabola(p)))
    first = [{"ladder.lr": 3e-3}, {"ladder.lr": 8e-3}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert go([cell(first=first)], rules(n_trials=4, sampler="gp"), workers) == 0
    (found,) = read_cells(sweep)
    assert found.counts()["diverged"] > 0
    assert capfd.readouterr().err == ""


def test_of_a_maximum_diverged_is_worst_too(cell, go, sweep):
    workers = Workers(lambda p: ("diverged", None) if lr(p) > 6e-3 else ("done", lr(p)))
    assert go([cell()], rules(n_trials=6, direction="maximize"), workers) == 0
    (found,) = read_cells(sweep)
    assert found.best().value == max(lr(p) for p in workers.ran if lr(p) <= 6e-3)
    assert -math.inf in [t.value for t in found.trials]


def test_a_failed_trial_is_told_apart_and_tried_again_by_the_next_command(cell, go, sweep, capsys):
    def fate(point):
        return ("failed", None) if len(broken.ran) == 1 else ("done", parabola(point))

    broken = Workers(fate)
    assert go([cell()], rules(n_trials=4), broken) == 1
    assert len(broken.ran) == 4  # the others went on
    (found,) = read_cells(sweep)
    assert found.counts() == {"done": 3, "diverged": 0, "failed": 1, "running": 0, "left": 0}
    where = f"ladder.lr={lr(broken.ran[1]):g}"
    out = capsys.readouterr().out
    assert f"note: model=dense: trial with {where} failed: OSError: no room" in out
    left = Workers(None)
    assert go([cell("dense", "retry=none")], rules(n_trials=4), left) == 1
    healed = Workers()
    assert go([cell()], rules(n_trials=4), healed) == 0
    assert [p.run_id for p in healed.ran] == [broken.ran[1].run_id]
    (found,) = read_cells(sweep)
    assert found.counts()["done"] == 4


def test_a_failed_trial_that_retry_has_run_since_is_told(cell, go, sweep):
    broken = Workers(lambda p: ("failed", None))
    assert go([cell()], rules(n_trials=1), broken) == 1
    finish(broken.ran[0], value=3.5)  # python -m experiments.retry
    assert go([cell()], rules(n_trials=1), Workers(None)) == 0
    (found,) = read_cells(sweep)
    assert found.best().value == 3.5


def test_each_cell_has_its_own_trials_in_turn_and_seeds_are_averaged(cell, go, sweep):
    workers = Workers(lambda p: ("done", parabola(p) + p.config.seed))
    cells = [cell("dense", seeds=(0, 1)), cell("peer", seeds=(0, 1))]
    assert go(cells, rules(n_trials=3), workers) == 0
    assert [p.config.model_name for p in workers.ran] == 3 * (2 * ["dense"] + 2 * ["peer"])
    dense, peer = read_cells(sweep)
    assert (dense.name, peer.name) == ("model=dense", "model=peer")
    for found in (dense, peer):
        assert found.counts()["done"] == 3
        for trial in found.trials:
            near = 3 + math.log(trial.params["ladder.lr"] / 8e-3) ** 2
            assert trial.value == pytest.approx(near + 0.5)
            assert len(trial.runs) == 2
    assert [t.params for t in dense.trials] == [t.params for t in peer.trials]  # the first four


def test_a_trial_with_a_failed_seed_has_no_value(cell, go, sweep):
    workers = Workers(lambda p: ("failed", None) if p.config.seed else ("done", 3.0))
    assert go([cell("dense", seeds=(0, 1))], rules(n_trials=2), workers) == 1
    (found,) = read_cells(sweep)
    assert found.counts()["failed"] == 2
    healed = Workers()
    assert go([cell("dense", seeds=(0, 1))], rules(n_trials=2), healed) == 0
    assert [p.config.seed for p in healed.ran] == [1, 1]
