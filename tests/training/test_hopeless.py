"""trainer.stop_hopeless: who is stopped, by whose curve, and what all others make of it."""

import csv
import math
from dataclasses import replace

import pytest

from analysis.table.load import finished, load_table
from experiments.points.planning import make_point
from experiments.records.files import read_outcome, read_record, write_record
from experiments.sweep.objective import objective_value
from experiments.sweep.planning import choose, set_aside_diverged
from experiments.sweep.search_table import CellState
from experiments.sweep.states import read_states
from experiments.training.execute import execute
from experiments.training.hopeless import Hopeless, best_of_cell, compare
from tests.conftest import TINY
from tests.records.test_record import record

N = 1000


def rows(to=N, offset=0.0):
    """A curve whose loss falls by 1 on the way to step N."""
    return [(s, 5 - s / N + offset) for s in range(10, to + 1, 10)]


def best(**more):
    return record(run_id="best", n_steps=N, train_loss=4.0, **more)


@pytest.mark.parametrize("step", [300, 600, 900])
def test_a_run_may_lose_half_as_much_again_as_the_best_from_there(step):
    rest = (N - step) / N
    limit = 0.5 * rest + 0.05
    assert compare(rows(step, limit - 0.01), rows(), best(), within=0.05) is None
    why = compare(rows(step, limit + 0.01), rows(), best(), within=0.05)
    assert why is not None
    assert why.startswith(f"stopped at step {step}: its training loss is")
    assert "trainer.stop_hopeless=0.05" in why


def test_noise_leaves_room():
    """Two standard errors of five rows, by the differences of neighbours."""
    clean = rows(900, offset=0.2)
    noisy = [(s, loss + 0.2 * (-1) ** (s // 10)) for s, loss in clean]
    assert compare(clean, rows(), best(), within=0.05) is not None
    assert compare(noisy, rows(), best(), within=0.05) is None


def test_too_few_rows_say_nothing():
    assert compare(rows(40, 3.0), rows(), best(), within=0.05) is None


def finish(folder, run_id, table, **more):
    own = replace(record(run_id=run_id, n_steps=N), **more)
    write_record(folder / run_id, own)
    with (folder / run_id / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("step", "loss"), *table])
    return own


def test_the_best_is_of_the_same_cell(tmp_path):
    own = finish(tmp_path, "own", rows(500), train_loss=1.0)
    assert best_of_cell(tmp_path, own) is None
    finish(tmp_path, "good", rows(), train_loss=4.0)
    finish(tmp_path, "worse", rows(offset=1.0), train_loss=5.0)
    finish(tmp_path, "larger", rows(), train_loss=2.0, n_layers=own.n_layers + 1)
    finish(tmp_path, "longer", rows(), train_loss=2.0, budget=2 * own.budget)
    finish(tmp_path, "failed", rows(), train_loss=2.0, status="failed")
    finish(tmp_path, "torn", rows(500), train_loss=2.0)
    finish(tmp_path, "other", rows(), train_loss=2.0, config={"optim": {"schedule": "wsd"}})
    finish(tmp_path, "text", rows(), train_loss=2.0, config={"data": {"corpus": "b"}})
    found = best_of_cell(tmp_path, own)
    assert found is not None
    assert found[1].run_id == "good"
    assert found[0] == rows()


def test_it_looks_at_some_steps_alone(tmp_path):
    finish(tmp_path, "good", rows(), train_loss=4.0)
    own = record(run_id="own", n_steps=N)
    stopped = [
        step
        for step in range(10, N + 1, 10)
        if Hopeless(tmp_path, own, 0.1).look(rows(step, offset=2.0))
    ]
    assert stopped == [300, 400, 500, 600, 700, 800, 900]


@pytest.fixture(scope="module")
def sweep(compose_raw, tmp_path_factory):
    """A point with a good rate, and one of the same cell that hardly moves."""
    top = tmp_path_factory.mktemp("hopeless")

    def point(lr, *more):
        paths = (f"paths.results={top / 'results'}", f"paths.cache={top / 'cache'}")
        fixed = ("model=dense", "size=2", "budget=1e9", f"ladder.lr={lr}")
        every = "logger.log_every_n_steps=1"
        return make_point(compose_raw(*fixed, *TINY, every, *paths, *more))

    good = execute(point(1e-2))
    assert good.status == "done"
    bad = point(1e-7, "trainer.stop_hopeless=0.05")
    return point, bad, execute(bad)


def test_a_hopeless_run_ends_early_in_a_state_of_its_own(sweep):
    make, bad, found = sweep
    assert bad.run_id == make(1e-7).run_id
    assert found.status == "hopeless"
    assert found.val_loss is None
    n_steps = found.n_tokens // found.batch_tokens
    assert n_steps == math.ceil(0.3 * found.n_steps)
    assert found.error is not None
    assert found.error.startswith("stopped at step")
    outcome = read_outcome(bad.run_dir / "record.json")
    assert (outcome.status, outcome.n_steps, outcome.last_row) == ("hopeless", n_steps, n_steps)
    (state,) = (s for s in read_states(bad.run_dir.parent) if s.run_id == bad.run_id)
    assert state.state == "hopeless"
    assert state.detail == found.error


def test_it_is_not_repeated_but_by_retry_all(sweep):
    make, bad, found = sweep
    assert execute(bad) == found
    assert choose([bad]).finished == (bad,)
    again = make(1e-7, "trainer.stop_hopeless=0.05", "retry=all")
    assert choose([again]).run == (again,)
    assert objective_value(found) == math.inf


def test_analyses_leave_it_out_by_name(sweep):
    _, bad, _ = sweep
    table = load_table(bad.run_dir.parent)
    assert set(table["status"]) == {"done", "hopeless"}
    assert len(finished(table)) == 1
    note = f"1 run stopped as hopeless, excluded: {bad.run_id}"
    assert note in table.attrs["notes"]


def test_with_retry_all_its_files_are_set_aside(sweep):
    make, bad, _ = sweep
    set_aside_diverged([make(1e-7, "retry=all")])
    assert (bad.run_dir / "hopeless-1" / "record.json.old").exists()
    assert execute(make(1e-7)).status == "done"  # without the option
    assert read_record(bad.run_dir / "record.json").status == "done"


def test_a_search_counts_it_where_there_is_one():
    cell = CellState(name="c", rules={}, objective=None, trials=(), n_left=0, n_hopeless=0)
    assert "hopeless" not in cell.counts()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trainer.devices=2",), "2 processes a run: they would have to agree"),
        (("optim.schedule=trunk", "optim.warmup_tokens=1e3"), "a trunk has no end to compare"),
        (("trainer.stop_hopeless=-1",), "stop_hopeless"),
    ],
)
def test_what_it_can_t_stop_is_refused(compose_raw, words, message):
    given = ("model=dense", "size=2", "budget=1e9", *TINY, "trainer.stop_hopeless=0.1")
    with pytest.raises(ValueError, match=message):
        make_point(compose_raw(*given, *words))
