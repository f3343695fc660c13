"""Searches with real runs, by the command line: killed, several at once, and refused."""

import json
import signal
import time

import pytest

from experiments import status
from experiments.records.files import read_record
from experiments.sweep.search_table import read_cells
from tests.json_page import check
from tests.sweep.searches import FIXED, events
from tests.sweep.searches import command as search

pytest.importorskip("optuna")
FIVE = "1.1,1.2,1.3,1.4,1.5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{ladder.rate: 'log(1, 2)'}"], "ladder.rate is not a key of model=dense budget=2e+08"),
        (["{model.n_heads: 'int(1, 2)'}"], "model.n_heads is not a key of model=dense"),
        (["{optim.table_lr: 'log(1, 2)'}"], "optim.table_lr=1 has no effect on model=dense, where"),
        (["{optim.schedule: 'log(1, 2)'}"], "optim.schedule=cosine of model=dense budget=2e+08"),
        (["{ladder.lr: 'log(2, 1)'}"], "is empty: 2 is not below 1"),
        (["{size: 'int(1, 2)'}"], "size is in hydra.sweeper.per too"),
        (["{ladder.lr_d_model: 'uniform(1, 2)'}"], "ladder.lr_d_model=1 must be of type int"),
        (["{ladder.lr: log(1, 2)}"], "put log(1, 2) in quotes"),
        (["[1]"], "must be a group of keys"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.n_trials=0"], "n_trials=0 must be at least 1"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.n_trials=null"], "n_trials is not set"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.sampler=x"], "sampler=x is not one of tpe,"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.seed=-1"], "hydra.sweeper.seed=-1 must be"),
        (["{ladder.lr: 'log(1, 2)'}", "ladder.lr=3"], "lr=3 of the grid is to be tried"),
        (["{ladder.lr: 'log(1, 2)'}", f"ladder.lr={FIVE}"], "and the grid has 5 values"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.objective=loss"], "objective=loss is no"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.per=size"], "per=size must be a list of keys"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra.sweeper.per=[sizes]"], "per: sizes is not a key"),
        (["{ladder.lr: 'log(1, 2)'}", "optim.warmup=.1,.2"], "differ in optim.warmup; name that"),
        (["{ladder.lr: 'log(1, 2)'}", "hydra/launcher=slurm"], "needs sbatch"),
    ],
)
def test_a_search_that_cannot_be_is_one_line_exit_2_and_nothing_written(
    run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setattr("experiments.sweep.queues.slurm.is_there", lambda: False)
    search, *others = arguments
    code, out, err = run("-m", *FIXED[:-1], f"hydra.sweeper.search={search}", *others)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_prints_the_plan_of_a_search_and_writes_nothing(run, tmp_path):
    code, out, _ = run(
        "-m", *FIXED, "model=dense,none", "dry_run=true", "trainer.flops_per_second=1e9"
    )
    assert code == 0
    assert "search: these at other values too, 8 trials, 4 of each of 2 cells, 1.6e+09 FLOPs" in out
    assert list(tmp_path.iterdir()) == []


def test_a_search_trains_and_status_shows_it(run, tmp_path, command):
    one = ("hydra.launcher.n_workers=1", "model=dense,none", "ladder.lr=8e-3")
    code, out, err = run("-m", *FIXED, *one, "hydra.sweeper.n_trials=2")
    assert code == 0, err
    assert "[4/4]" in out
    records = [read_record(p) for p in (tmp_path / "results/s").glob("*/record.json")]
    assert len(records) == 4
    for found in read_cells(tmp_path / "results/s"):
        best = found.best()
        (record,) = [r for r in records if r.run_id == best.runs[0]]
        # one number, in the journal, in the config and in what AdamW was given
        assert (
            record.config["ladder"]["lr"]
            == best.params["ladder.lr"]
            == record.config["optim"]["lr"]
        )
        assert record.val_loss == best.value
        assert found.name == f"model={record.model} budget=2e+08 size=1"
        assert found.trials[0].params == {"ladder.lr": 8e-3}  # the grid's value is tried first
        assert found.trials[1].params != {"ladder.lr": 8e-3}
        assert best.value == min(r.val_loss for r in records if r.model == record.model)
    out = command(status, "s")[1]
    *points, dense, _ = map(json.loads, command(status, "s", "--json")[1].splitlines())
    for each in (*points, dense):
        check(each)
    assert {p["run_id"] for p in points} == {r.run_id for r in records}
    assert (dense["cell"], dense["done"]) == ("model=dense budget=2e+08 size=1", 2)
    assert dense["best"]["value"] == min(r.val_loss for r in records if r.model == "dense")
    assert "search: lowest val_loss of ladder.lr log(2e-3, 4e-2)" in out
    assert "model=none budget=2e+08 size=1      2" in out
    # a grid's point at a rate that was searched is the same run
    code, out, _ = run(
        "-m", *FIXED[:-2], "model=dense", f"ladder.lr={records[0].config['ladder']['lr']}"
    )
    assert (code, "1 of 1 runs are done already" in out) == (0, records[0].model == "dense")


@pytest.mark.night
def test_a_killed_search_goes_on_and_ends_as_the_one_that_was_not(tmp_path):
    one = ("hydra.launcher.n_workers=1", "hydra.sweeper.n_trials=4")
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    assert search(tmp_path / "whole", *one).wait() == 0
    killed = tmp_path / "killed"
    for n_done in (1, 2):
        process = search(killed, *one)
        while len(list(killed.glob("results/s/*/record.json"))) < n_done:
            assert process.poll() is None, (killed / "log.txt").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)  # its worker may live on, and hold its run
        process.wait()
    deadline = time.monotonic() + 300
    while (code := search(killed, *one).wait()) != 0:
        assert code == 3, (killed / "log.txt").read_text()
        assert time.monotonic() < deadline
    trials = [
        [(dict(t.params), t.value) for t in read_cells(tmp_path / name / "results/s")[0].trials]
        for name in ("killed", "whole")
    ]
    assert trials[0] == trials[1]
    assert len(trials[0]) == 4
    assert all(kinds.count("done") == 1 for kinds in events(killed).values())
    assert len(events(killed)) == 4


@pytest.mark.night
def test_two_searches_at_once_share_the_trials(tmp_path):
    both = [
        search(tmp_path, "hydra.launcher.n_workers=1", "hydra.sweeper.n_trials=6") for _ in "ab"
    ]
    codes = sorted(process.wait() for process in both)
    assert codes[0] == 0, (tmp_path / "log.txt").read_text()
    assert codes[1] in (0, 3), (tmp_path / "log.txt").read_text()  # 3: the other had the last
    found = events(tmp_path)
    assert sorted(map(tuple, found.values())) == 6 * [("started", "done")]
    (cell,) = read_cells(tmp_path / "results/s")
    assert cell.counts() == {"done": 6, "diverged": 0, "failed": 0, "running": 0, "left": 0}


def test_a_run_that_diverges_is_told_as_worst(run, tmp_path):
    wide = "hydra.sweeper.search={ladder.lr: [1e-2, 900.0]}"
    assert run("-m", *FIXED[:-1], wide, "model=dense", "hydra.sweeper.sampler=random")[0] == 0
    (cell,) = read_cells(tmp_path / "results/s")
    assert cell.best().params == {"ladder.lr": 1e-2}
    assert cell.counts()["diverged"] >= 1
