"""Searches by rules, journal and records: what is asked, told, tried again, and by whom.

Workers are made up: they write records. tests/sweep/test_search_runs.py has real ones.
"""

import json
import math

import pytest

from experiments.records import RunRecord, write_record
from experiments.sweep import search as search_module
from experiments.sweep import search_local
from experiments.sweep.manifest import submitting
from experiments.sweep.objective import Objective, check_objective
from experiments.sweep.search import Cell, Search
from experiments.sweep.search_table import read_cells, search_lines
from experiments.sweep.space import read_spaces
from experiments.sweep.states import read_states
from experiments.sweep.study import JOURNAL_NAME, Rules
from experiments.sweep.workers import Outcome
from experiments.system.locks import lock
from tests.conftest import TINY

pytest.importorskip("optuna")
pytestmark = pytest.mark.slow
LR = {"ladder.lr": "log(2e-3, 4e-2)"}


def rules(spaces=LR, n_trials=5, objective="val_loss", direction="minimize", **others):
    return Rules(
        spaces=read_spaces(spaces),
        n_trials=n_trials,
        objective=Objective(name=objective, direction=direction),
        **{"sampler": "tpe", "seed": 0, **others},
    )


@pytest.fixture
def cell(compose_raw, tmp_path):
    """cell("dense", ...): the cell of a model, its points as Hydra would compose them."""

    def make(model="dense", *overrides, seeds=(0,), first=()):
        def compose(words):
            raws = []
            for seed in seeds:
                raw = compose_raw(
                    f"model={model}", f"seed={seed}", "size=1", "budget=1e9", "sweep=s", *TINY,
                    f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
                    *overrides,
                )  # fmt: skip
                for word in words:
                    name, _, value = word.partition("=")
                    group, _, key = name.partition(".")
                    raw[group][key] = type(raw[group][key])(value)
                raw["optim"]["lr"] = raw["ladder"]["lr"]
                raws.append(raw)
            return raws

        return Cell(name=f"model={model}", compose=compose, first=first)

    return make


def lr(point):
    return point.config.ladder.lr


def parabola(point):
    return 3 + math.log(lr(point) / 8e-3) ** 2


def finish(point, status="done", value=None):
    plan, cost = point.plan, point.plan.cost
    record = RunRecord(
        run_id=point.run_id, sweep="s", status=status, model=point.config.model_name,
        seed=point.config.seed, budget=1e9, n_layers=1, d_model=16, n_experts=None,
        n_params=cost.n_params, n_active_params=cost.n_active_params,
        n_non_embedding_params=cost.n_non_embedding_params, flops_per_token=1.0, flops_shares={},
        planned_flops=plan.planned_flops, n_steps=plan.n_steps, batch_tokens=plan.batch_tokens,
        n_tokens=plan.n_tokens, lr=plan.lr, causal_eval=True, val_loss=value,
        error="Traceback\nOSError: no room" if status == "failed" else None,
    )  # fmt: skip
    write_record(point.run_dir, record)


class Workers:
    """In the place of workers.run_all: one point after the other, as `fate` decides."""

    def __init__(self, fate=lambda point: ("done", parabola(point)), stop_after=None):
        self.fate, self.stop_after, self.ran = fate, stop_after, []

    def run_all(self, points, n_workers, name, more, expected):
        outcomes = {}
        while queue := more(n_workers, outcomes):
            for point in queue:
                if len(self.ran) == self.stop_after:
                    raise KeyboardInterrupt
                status, value = self.fate(point)
                finish(point, status, value)
                self.ran.append(point)
                failed = status == "failed"
                outcomes[point.run_id] = Outcome(
                    fate="failed" if failed else "done", why="OSError: no room" if failed else ""
                )
        return outcomes


@pytest.fixture
def go(monkeypatch):
    """go(cells, rules, workers): a command; its exit code."""
    monkeypatch.setattr(search_local, "prepare_all", lambda points: None)
    monkeypatch.setattr(search_local, "run_from", lambda code: None)
    monkeypatch.setattr(search_local, "enter", enter)

    def run(cells, given, workers, n_workers=1):
        monkeypatch.setattr(search_local, "run_all", workers.run_all)
        try:
            search_local.run_search(Search(cells, given), n_workers)
        except SystemExit as end:
            return end.code
        except KeyboardInterrupt:
            return 130
        return 0

    return run


def enter(points):
    """Without the copy of the code, which takes half a second."""
    from experiments.sweep import manifest

    if points:
        manifest.add(points[0].run_dir.parent, [manifest.entry_of(p, None) for p in points])
    return


def asked(sweep):
    return [(t.state, dict(t.params), t.value) for c in read_cells(sweep) for t in c.trials]


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
        controller = search_local._Controller(search)

        def more(n, outcomes=None):
            self.act(name)
            return controller.more(n, outcomes or {})

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


def test_a_search_by_other_rules_or_of_other_settings_is_refused(cell, go, sweep):
    assert go([cell()], rules(n_trials=1), Workers()) == 0
    before = (sweep / JOURNAL_NAME).read_bytes()
    for given, message in [
        (rules({"ladder.lr": "log(2e-3, 8e-2)"}), "hydra.sweeper.search=.* was searched with"),
        (rules(direction="maximize"), "hydra.sweeper.direction=maximize, and model=dense was"),
        (rules(objective="train_loss"), "hydra.sweeper.objective=train_loss, and model=dense"),
    ]:
        with pytest.raises(ValueError, match=message):
            go([cell()], given, Workers(None))
    with pytest.raises(ValueError, match="model=dense was searched before with other settings"):
        go([cell("dense", "optim.warmup=0.2")], rules(n_trials=1), Workers(None))
    assert (sweep / JOURNAL_NAME).read_bytes() == before
    (sweep / JOURNAL_NAME).write_text("no journal\n" * 3)
    with pytest.raises(ValueError, match=r"search.journal is damaged .*; move it away"):
        go([cell()], rules(n_trials=1), Workers(None))


def test_keys_without_effect_and_ends_that_cannot_run_are_refused(cell, go, tmp_path):
    for spaces, message in [
        ({"trainer.max_retries": "int(1, 4)"}, "makes no other run of model=dense"),
        ({"ladder.lr": "log(1, 1e4)"}, "ladder.lr=10000 must be at most 1000"),
        ({"ladder.batch_size": "int(4, 4000)"}, "budget="),
    ]:
        with pytest.raises(ValueError, match=message):
            go([cell()], rules(spaces), Workers(None))
    assert not (tmp_path / "results").exists()


def test_values_that_are_refused_on_the_way_fail_alone(cell, go, sweep):
    inner = cell()

    def compose(words):
        raws = inner.compose(words)
        if raws[0]["ladder"]["lr"] not in (2e-3, 4e-2):  # the ends, which are checked before
            raws[0]["ladder"]["batch_size"] += 1000 * (next(n) == 1)
        return raws

    n = iter(range(100))
    workers = Workers()
    assert go([Cell(name="model=dense", compose=compose)], rules(n_trials=4), workers) == 1
    assert len(workers.ran) == 3
    (found,) = read_cells(sweep)
    assert found.counts() == {"done": 3, "diverged": 0, "failed": 1, "running": 0, "left": 0}
    (failed,) = [t for t in found.trials if t.state == "failed"]
    assert "batch_size" in failed.why
    assert go([cell()], rules(n_trials=4), Workers(None)) == 1  # not asked again and again


@pytest.mark.parametrize("name", ["val_loss", "bits_per_byte", "mfu", "n_params", "wikitext2.loss"])
def test_an_objective_is_a_number_of_a_record(name):
    check_objective(name)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("val_los", "did you mean val_loss?"), ("status", "it has "), ("config", ""), (None, "")],
)
def test_another_objective_is_refused(name, hint):
    with pytest.raises(ValueError, match="is no number of a record; " + hint.replace("?", r"\?")):
        check_objective(name)


def test_a_record_without_the_objective_fails_its_trial(cell, go, sweep):
    assert go([cell()], rules(n_trials=1, objective="wikitext2.loss"), Workers()) == 1
    (found,) = read_cells(sweep)
    assert found.trials[0].why == "its record has no number wikitext2.loss"


def test_status_has_a_line_a_cell_and_says_what_to_look_at(cell, go, sweep):
    low = Workers(lambda p: ("done", lr(p)), stop_after=5)
    go([cell("dense"), cell("peer")], rules(n_trials=4), low)
    lines = search_lines(read_cells(sweep))
    assert lines[0] == "search: lowest val_loss of ladder.lr log(2e-3, 4e-2)"
    assert lines[1].split() == [
        "cell", "done", "diverged", "failed", "running", "left", "best", "val_loss", "ladder.lr",
        "run",
    ]  # fmt: skip
    assert lines[2].split()[:2] == ["model=dense", "3"]
    assert lines[3].split()[:4] == ["model=peer", "2", "1", "1"]
    assert not any(line.startswith("note") for line in lines)
    low = Workers(lambda p: ("done", lr(p)))
    spaces = {"ladder.lr": "log(2e-3, 2.2e-3)"}
    (sweep / JOURNAL_NAME).unlink()
    assert go([cell("dense")], rules(spaces, n_trials=10), low) == 0
    (note,) = search_lines(read_cells(sweep))[3:]
    assert "is at an end of log(2e-3, 2.2e-3); search further out, in another sweep" in note


def test_the_journal_is_one_that_optuna_reads(cell, go, sweep):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    assert go([cell()], rules(n_trials=3), Workers()) == 0
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / JOURNAL_NAME)))
    study = optuna.load_study(study_name="model=dense", storage=storage)
    assert len(study.trials) == 3
    assert study.best_value == read_cells(sweep)[0].best().value
    assert json.loads((sweep / JOURNAL_NAME).read_text().splitlines()[0])


def test_without_optuna_one_line_says_what_to_install(monkeypatch, sweep):
    import sys

    from experiments.sweep.study import check_installed

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"needs Optuna: pip install 'expert-isoflops\[search\]'"):
        check_installed()
    sweep.mkdir(parents=True)
    assert read_cells(sweep) == []
    (sweep / JOURNAL_NAME).touch()
    with pytest.raises(ValueError, match="needs Optuna"):
        read_cells(sweep)
