"""What a search refuses, what it looks for, and how it is shown."""

import json

import pytest

from experiments.language.objectives import check_fair, check_objective, check_scored
from experiments.sweep.search import Cell
from experiments.sweep.search_table import read_cells, search_lines
from experiments.sweep.study import JOURNAL_NAME
from tests.sweep.searches import Workers, lr, rules

pytest.importorskip("optuna")


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


@pytest.mark.parametrize("place", [0, 3, -1])
def test_a_garbled_line_is_named_by_the_first_command(cell, go, sweep, place):
    assert go([cell()], rules(n_trials=1), Workers()) == 0
    path = sweep / JOURNAL_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    lines[place] = b"\0" * 30 + b"\n"  # as a disk without power may leave it
    path.write_bytes(b"".join(lines))
    number = range(1, len(lines) + 1)[place]
    why = rf"{path} is damaged \(line {number} is not Optuna's: .*\); move it away; the same com"
    workers = Workers()
    with pytest.raises(ValueError, match=why):
        go([cell()], rules(n_trials=2), workers)
    assert path.read_bytes() == b"".join(lines)
    with pytest.raises(ValueError, match=why):
        read_cells(sweep)
    path.rename(sweep / "aside")
    assert go([cell()], rules(n_trials=2), workers) == 0
    assert len(workers.ran) == 1  # the first trial's record is there


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
    assert go([cell()], rules(n_trials=1, objective="train_loss"), Workers()) == 1
    (found,) = read_cells(sweep)
    assert found.trials[0].why == "its record has no number train_loss"


@pytest.mark.parametrize("name", ["wikitext2.loss", "pile/github.loss"])
def test_an_objective_of_a_set_that_is_not_scored_is_refused(cell, go, name):
    with pytest.raises(ValueError, match=r"and the runs score no set; give eval=\[\w+\] too"):
        go([cell()], rules(objective=name), Workers(None))
    check_scored(name, ["wikitext2", "pile"])


@pytest.mark.parametrize(
    ("key", "name", "why"),
    [
        ("seed", "val_loss", "the best of them is luck"),
        ("budget", "val_loss", "a larger one is better"),
        ("data.n_eval_tokens", "wikitext2.loss", "another part of the held-out text"),
        ("evaluation.stride", "wikitext2.loss", "another part"),
        ("eval.wikitext2.max_tokens", "wikitext2.loss", "another part"),
        ("ladder.seq_len", "val_loss", "windows of another length"),
        ("ladder.vocab_size", "val_loss", "set hydra.sweeper.objective=bits_per_byte"),
        ("tokenizer", "wikitext2.loss", "set hydra.sweeper.objective=bits_per_byte"),
        ("data", "val_loss", "objective=SET.loss"),
        ("data.corpus.weights.gcide", "bits_per_byte", "objective=SET.loss"),
    ],
)
def test_a_key_that_changes_what_is_measured_is_refused(key, name, why):
    with pytest.raises(ValueError, match=f"{key} can't be searched: .*{why}"):
        check_fair([key], name)


def test_what_changes_the_model_alone_may_be_searched():
    check_fair(["ladder.lr", "size", "optim.schedule", "data.mask_documents"], "val_loss")
    check_fair(["ladder.vocab_size"], "bits_per_byte")
    check_fair(["tokenizer", "data.corpus.weights.gcide"], "recipes.bits_per_byte")
    check_fair(["data", "data.corpus.weights.gcide"], "recipes.loss")


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
    with pytest.raises(ValueError, match=r"needs Optuna: pip install -e '\.\[search\]'"):
        check_installed()
    sweep.mkdir(parents=True)
    assert read_cells(sweep) == []
    (sweep / JOURNAL_NAME).touch()
    with pytest.raises(ValueError, match="needs Optuna"):
        read_cells(sweep)
