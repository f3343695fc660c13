"""`publish`: what is in the folder, that it says the same, and what is never in it."""

import getpass
import hashlib
import json
import pickle
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from analysis.__main__ import main as analysis
from analysis.report.page.blocks import Drawing
from experiments import publish
from experiments.interchange.public import private_names, public_record, without_names
from experiments.points.planning import compute_run_id
from experiments.records.files import read_record, write_record
from tests.analysis.hand_made import of_few_draws, write_run
from tests.conftest import SMALL_PEER
from tests.records.test_record import record
from tests.security.strangers import own_folder, state_of

KEY = "hf_" + "a1B2" * 8
CONFIG = {
    "paths": {"results": "/home/ann/results", "cache": "~/cache"},
    "logger": {"wandb": "online", "project": "secret-plan", "entity": "ann-lee",
               "tools": {"trackio": {"project": "x"}}, "log_every_n_steps": 5},
    "data": {"path": "/home/ann/my texts/news", "corpus": {
        "_target_": "experiments.data.files.LocalText", "path": "/home/ann/my texts/news",
        "validation_path": "../held/out.txt"}},
    "init": {"path": "/scratch/models/small", "sha256": "0" * 64},
    "hub": "allenai/c4", "home": "/home/ann", "windows": "C:\\Users\\ann\\w.txt",
}  # fmt: skip
ENVIRONMENT = {
    "python": "3.11", "host": "node7.lab.edu", "slurm_job_id": "77", "device": "EPYC",
    "git_commit": "ab" * 20, "git_dirty": False, "kernel": "cpp avx512",
    "command": ["run.py", "-m", "size=1,2", "data=local", "data.path=/home/ann/my texts/news",
                "paths.results=/home/ann/results", "logger=wandb", "++logger.entity=ann-lee",
                "hydra.launcher.partition=ann-gpu", "init.path='/scratch/models/small'",
                "data.path=/data/x y/a,~/b,c"],
}  # fmt: skip
ERROR = (
    'Traceback\n  File "/home/ann/src/experiments/run.py", line 3, in go\n'
    f"OSError: no /mnt/disk/x.bin on node7 for {getpass.getuser()} https://a.org/b?q=1 {KEY}"
)


def sweep_of(folder: Path, **columns) -> Path:
    """Two models at two budgets and four sizes, and one run that failed."""
    for model, gain in (("dense", 0.0), ("peer", 0.1)):
        for budget, x_opt in ((2e11, 2.5), (6e11, 3.0)):
            for size in range(1, 5):
                loss = 4 - gain - 0.1 * budget / 1e12 + 0.05 * (size - x_opt) ** 2
                more = {"environment": ENVIRONMENT, "config": CONFIG} | columns
                write_run(folder, model, budget, size, 60_000 * size**1.5, loss, **more)
    failed = record(run_id="broken", status="failed", val_loss=None, error=ERROR, config=CONFIG)
    write_record(folder / "broken", replace(failed, environment=ENVIRONMENT))
    return folder


@pytest.fixture
def sweep(tmp_path):
    return sweep_of(tmp_path / "results" / "s")


@pytest.fixture
def quick(monkeypatch):
    """Few draws of each bootstrap, and no pictures: most of a report's seconds."""
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'

    def empty(folder, models, unit, plot):
        return Drawing(name=plot.name, caption=plot.caption, svg=svg)

    monkeypatch.setattr("analysis.report.gallery._draw", empty)
    monkeypatch.setattr("analysis.processes._cores", lambda: 1)  # another would not know it
    with of_few_draws():
        yield


def texts(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files}


def test_the_record_that_others_see_has_its_numbers_and_no_place_or_person(tmp_path):
    given = record(config=CONFIG, environment=ENVIRONMENT, error=ERROR, status="failed")
    public = public_record(given)
    same = ("run_id", "n_params", "val_loss", "status", "sweep", "budget")
    assert all(getattr(public, name) == getattr(given, name) for name in same)
    config = public.config
    assert config["paths"] == {"results": "results", "cache": ".cache"}
    assert config["logger"] == {
        "wandb": "disabled", "project": "experiments", "entity": None, "log_every_n_steps": 5
    }  # fmt: skip
    assert config["data"]["path"] == config["data"]["corpus"]["path"] == "news"
    assert config["data"]["corpus"]["validation_path"] == "out.txt"
    assert config["data"]["corpus"]["_target_"] == "experiments.data.files.LocalText"
    assert config["init"] == {"path": "small", "sha256": "0" * 64}
    assert (config["hub"], config["home"], config["windows"]) == ("allenai/c4", "[cut]", "w.txt")
    environment = public.environment
    assert environment["command"] == [
        "run.py", "-m", "size=1,2", "data=local", "data.path=news", "init.path='small'",
        "data.path=a,b,c",
    ]  # fmt: skip
    assert {*environment} == {*ENVIRONMENT} - {"host", "slurm_job_id"}
    assert 'File "run.py", line 3' in public.error
    assert "no x.bin on [cut] for [cut] https://a.org/b?q=1 [cut]" in public.error
    text = json.dumps(vars(public))
    for private in ("/home", "ann-lee", "secret-plan", "node7", "/scratch", "/mnt", "a1B2", "77"):
        assert private not in text, private
    write_record(tmp_path, public)
    assert public_record(read_record(tmp_path / "record.json")) == public  # twice is once


def test_names_are_cut_as_words_alone():
    names = private_names([record(environment={"host": "n1.lab"})])
    assert {"n1.lab", "n1", socket.gethostname(), getpass.getuser()} <= names
    assert without_names("n1 on n1.lab, n12 and gen1", {"n1", "n1.lab"}) == (
        "[cut] on [cut], n12 and gen1"
    )
    assert without_names("as it is", set()) == "as it is"


@pytest.mark.long
def test_it_is_read_back_to_the_same_fits_and_its_sums_are_right(
    sweep,
    tmp_path,
    command,
    quick,
    monkeypatch,
):
    history = b"step,loss\r\n10,3.5\r\n"
    (sweep / "peer2000000000001" / "history.csv").write_bytes(history)
    monkeypatch.chdir(tmp_path)
    code, out, err = command(publish, "s", "out", "--license", "cc-by-4.0")
    folder = tmp_path / "out"
    assert (code, out) == (0, f"out: {len(texts(folder))} files; README.md is its card\n")
    assert "licence" not in err
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
    assert len(checked.stdout.splitlines()) == len(texts(folder)) - 1
    fits = (folder / "fits.json").read_text()
    assert json.loads(fits)["isoflop"]["curves"]
    for name, path in (("own", sweep), ("theirs", folder)):
        assert analysis(["report", str(path), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name / "fits.json").read_text() == fits
    table = pd.read_parquet(folder / "records.parquet")
    assert len(table) == 17
    assert sorted(table["val_loss"].dropna()) == sorted(
        read_record(path).val_loss for path in sweep.glob("[!b]*/record.json")
    )
    assert (folder / "runs" / "peer2000000000001" / "history.csv").read_bytes() == history
    lines = (folder / "runs" / "manifest.jsonl").read_text().splitlines()
    assert {json.loads(line)["run_id"] for line in lines} == {
        p.parent.name for p in sweep.glob("*/record.json")
    }
    for path, content in texts(folder).items():
        for private in (b"/home", b"ann-lee", b"node7", b"secret-plan", bytes(tmp_path), b"a1B2"):
            assert private not in content, (path, private)


@pytest.fixture
def made(sweep, tmp_path, quick):
    publish.publish(sweep, tmp_path / "out", "cc-by-4.0")
    return tmp_path / "out"


@pytest.mark.long
def test_the_card_s_head_is_what_the_hub_reads(made):
    _, head, text = (made / "README.md").read_text().split("---\n", 2)
    values = yaml.safe_load(head)
    assert values["license"] == "cc-by-4.0"
    assert values["task_categories"] == ["text-generation"]
    assert values["size_categories"] == ["n<1K"]
    assert values["tags"]
    (config,) = values["configs"]
    assert (made / config["data_files"]).is_file()
    commands = "python -m experiments.run -m size=1,2 data=local data.path=news"
    assert f"git checkout {'ab' * 20}\n{commands} " in text
    assert "16 done, 1 failed" in text
    assert "- files of whoever trained it: unknown" in text
    assert (made / "LICENSE").read_text().startswith("cc-by-4.0\n")
    marker = json.loads((made / "publication.json").read_text())
    assert marker["sweep"] == "s"
    assert marker["version"] == publish.own_version()
    assert {*marker["files"]} == {str(path.relative_to(made)) for path in texts(made)}
    config = yaml.safe_load((made / "runs" / "broken" / "config.yaml").read_text())
    assert config == read_record(made / "runs" / "broken" / "record.json").config
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(made), cache_dir=str(made.parent / "cache"))
    assert loaded["train"].num_rows == 17


@pytest.mark.long
def test_it_is_brought_up_to_date_and_nothing_else_is_replaced(made, sweep, tmp_path):
    new = read_record(sweep / "broken" / "record.json")
    write_record(sweep / "more", replace(new, run_id="more", error=None))
    publish.publish(sweep, made)
    assert (made / "runs" / "more" / "record.json").exists()
    assert not (made / "LICENSE").exists()
    before = state_of(made)
    refused = [
        (sweep, tmp_path / "results", "is not empty, and no earlier publication; name a new one"),
        (sweep, sweep / "broken" / "record.json", "is a file; name a new folder"),
    ]
    own = made / "runs" / "notes.md"
    own.write_text("mine")
    refused.append((sweep, made, "holds runs/notes.md beside an earlier publication"))
    for given, folder, why in refused:
        with pytest.raises(ValueError, match=why):
            publish.publish(given, folder)
    own.unlink()
    (sweep / "more" / "record.json").unlink()
    with pytest.raises(ValueError, match="has the run more, which the sweep has not"):
        publish.publish(sweep, made)
    for path in sweep.glob("*/record.json"):
        write_record(path.parent, replace(read_record(path), sweep="other"))
    with pytest.raises(ValueError, match="is a publication of the sweep s; name another for the"):
        publish.publish(sweep, made)
    after = state_of(made)
    assert {name: after[name][1] for name in after} == {name: before[name][1] for name in before}


@pytest.mark.long
def test_what_can_t_be_published_is_said_before_any_work(sweep, tmp_path, command):
    out = tmp_path / "out"
    for path in sweep.glob("[!b]*/record.json"):
        path.unlink()
    code, _, err = command(publish, sweep, out)
    assert (code, err) == (
        2,
        f"error: {sweep} has no run that is done; see python -m experiments.status\n",
    )
    sweep_of(sweep)
    code, _, err = command(publish, sweep, out, "--models", "best")
    assert code == 2
    assert "has no last.ckpt to read" in err
    assert command(publish, sweep, out, "--license", "CC BY")[0] == 2
    assert command(publish, "nosuch", out)[0] == 2
    assert not out.exists()


@pytest.mark.long
def test_a_path_of_this_machine_in_any_file_stops_it(sweep, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(publish, "_licence", lambda *_: f"see {tmp_path}/results/mine.txt")
    with pytest.raises(ValueError, match=r"LICENSE would hold .*results, a path of this machine"):
        publish.publish(sweep, tmp_path / "out", "mit")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.long
def test_what_a_stranger_published_is_data(made, tmp_path, command, monkeypatch):
    """Links, pickles and paths in it lead nowhere, in reading it and in publishing it again."""
    thesis, before = own_folder(tmp_path / "thesis"), None
    monkeypatch.chdir(tmp_path)
    runs = made / "runs"
    first, second, third, *_ = sorted(path for path in runs.iterdir() if path.is_dir())

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (thesis / "RAN",))

    for name in ("last.ckpt", "history.csv"):
        (first / name).write_bytes(pickle.dumps(Bomb()))
    (made / "records.parquet").write_bytes(pickle.dumps(Bomb()))
    (second / "history.csv").symlink_to(thesis / "history.csv")
    out = replace(read_record(third / "record.json"), run_id="../../../thesis/x", sweep="../thesis")
    write_record(third, out)
    (made / "report.html").unlink()
    (made / "report.html").symlink_to(thesis / "paper.tex")
    marker = json.loads((made / "publication.json").read_text())
    marker["files"].append("../thesis/paper.tex")
    (made / "publication.json").write_text(json.dumps(marker))
    before = state_of(thesis)
    assert analysis(["report", str(made)]) == 0
    assert not (made / "report.html").is_symlink()  # replaced by a whole file, not written through
    code, _, err = command(publish, runs, tmp_path / "again")
    assert code == 0
    assert f"{first.name}/history.csv is no table of numbers, left out" in err
    again = tmp_path / "again" / "runs"
    assert {path.name for path in again.iterdir() if path.is_dir()} == {
        path.name for path in runs.iterdir() if path.is_dir()
    }
    assert not list(again.rglob("history.csv"))
    assert not (again / first.name / "last.ckpt").exists()
    assert state_of(thesis) == before
    (tmp_path / "link").symlink_to(thesis)
    with pytest.raises(ValueError, match="is not empty, and no earlier publication"):
        publish.publish(runs, tmp_path / "link")
    assert state_of(thesis) == before


@pytest.mark.long
def test_the_best_model_of_each_kind_is_exported_and_ids_hold(trained, tmp_path, monkeypatch):
    run_dir = trained(*SMALL_PEER)
    monkeypatch.setattr(publish, "_write_report", lambda *_: None)  # of one run nothing is fitted
    publish.publish(run_dir.parent, tmp_path / "out", models="best")
    model = tmp_path / "out" / "models" / run_dir.name
    assert (model / "model.safetensors").is_file()
    assert "`models/ID/`" in (tmp_path / "out" / "README.md").read_text()
    sums = (tmp_path / "out" / "SHA256SUMS").read_text()
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert f"{digest}  models/{run_dir.name}/model.safetensors\n" in sums
    config = read_record(tmp_path / "out" / "runs" / run_dir.name / "record.json").config
    assert config["paths"] == {"results": "results", "cache": ".cache"}
    assert compute_run_id(config) == run_dir.name


def test_best_is_of_the_largest_budget_then_the_lowest_loss():
    runs = {
        name: record(model=model, budget=budget, val_loss=loss, status=status)
        for name, model, budget, loss, status in (
            ("a", "peer", 1e9, 1.0, "done"),
            ("b", "peer", 1e10, 3.0, "done"),
            ("c", "peer", 1e10, 2.0, "done"),
            ("d", "dense", 1e9, 5.0, "done"),
            ("e", "dense", 1e10, 1.0, "failed"),
        )
    }
    assert sorted(publish._chosen(runs, "best")) == ["c", "d"]
    assert publish._chosen(runs, "all") == ["a", "b", "c", "d"]
    assert publish._chosen(runs, "none") == []
