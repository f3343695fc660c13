"""Several commands of one search at once, and commands that are killed."""

import pytest

from experiments.sweep import search as search_module
from experiments.sweep.manifest import submitting
from experiments.sweep.queue import Outcome
from experiments.sweep.search import Search
from experiments.sweep.search_runs import Steps
from experiments.sweep.search_table import read_cells
from experiments.sweep.study import JOURNAL_NAME
from experiments.system.locks import lock
from tests.sweep.searches import Workers, finish, rules

pytest.importorskip("optuna")


class Controllers:
    """Several in this process: each has a name, and a file that it has locked while it lives."""

    def __init__(self, monkeypatch, sweep):
        self.monkeypatch, self.sweep, self.files = monkeypatch, sweep, {}

    def start(self, name, cells, given):
        folder = self.sweep / ".controllers"
        folder.mkdir(parents=True, exist_ok=True)
        self.files[name] = (folder / name).open("w")
        lock(self.files[name])
        search = Search(cells, given)
        search.check()
        with submitting(self.sweep):
            search.begin()
            self.act(name)
            search.tell((), {})
            search.try_again()
        workers = Workers()
        steps = Steps(search, workers)

        def more(n, outcomes=None):
            self.act(name)
            workers.n_workers, workers.ended, workers.left = n, outcomes or {}, []
            steps.take()
            return workers.left

        return more

    def act(self, name):
        self.monkeypatch.setattr(search_module, "own_name", lambda: name)

    def kill(self, name):
        self.files.pop(name).close()


@pytest.fixture
def controllers(monkeypatch, sweep):
    found = Controllers(monkeypatch, sweep)
    yield found
    for name in list(found.files):
        found.kill(name)


def test_two_controllers_share_the_trials_and_one_takes_over_from_the_dead(
    cell, go, sweep, controllers
):
    a = controllers.start("host-1", [cell()], rules(n_trials=5))
    b = controllers.start("host-2", [cell()], rules(n_trials=5))
    of_a, of_b = a(2), b(2)
    assert [len(of_a), len(of_b)] == [2, 2]
    assert len({p.run_id for p in [*of_a, *of_b]}) == 4
    finish(of_a[0], value=3.0)
    finish(of_a[1], "failed")
    assert a(0) == []  # its own failure is for it to say, and it has not
    (last,) = b(1)
    assert b(3) == a(3) == []
    controllers.kill("host-1")
    assert b(3) == []  # told as failed: tried again by the next command, not by this one
    (found,) = read_cells(sweep)
    assert found.counts() == {"done": 1, "diverged": 0, "failed": 1, "running": 3, "left": 0}
    controllers.kill("host-2")
    c = controllers.start("host-3", [cell()], rules(n_trials=5))
    assert {p.run_id for p in c(4)} == {p.run_id for p in [of_a[1], *of_b, last]}


def test_a_run_that_is_about_to_be_tried_again_is_not_failed_by_its_old_record(
    cell, go, sweep, controllers
):
    a = controllers.start("host-1", [cell()], rules(n_trials=2))
    (point,) = a(1)
    finish(point, "failed")
    a(0, {point.run_id: Outcome(fate="failed", why="first")})
    controllers.kill("host-1")
    b = controllers.start("host-2", [cell()], rules(n_trials=2))
    (again,) = b(1)
    assert again.run_id == point.run_id
    assert len(b(1)) == 1
    a = controllers.start("host-3", [cell()], rules(n_trials=2))
    a(1)
    (found,) = read_cells(sweep)
    assert (found.counts()["running"], found.counts()["failed"]) == (2, 0)


def test_a_controller_killed_at_any_write_loses_no_trial(cell, go, sweep, tmp_path):
    workers = Workers()
    assert go([cell()], rules(n_trials=4), workers) == 0
    expected = {t.params["ladder.lr"] for t in read_cells(sweep)[0].trials}
    lines = (sweep / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    for n in range(1, len(lines)):
        for torn in (0, 7):
            (sweep / JOURNAL_NAME).write_bytes(b"".join(lines[:n]) + lines[n][:torn])
            assert go([cell()], rules(n_trials=4), Workers(None)) == 0
            (found,) = read_cells(sweep)
            assert found.counts()["done"] == 4
            assert {t.params["ladder.lr"] for t in found.trials} == expected
