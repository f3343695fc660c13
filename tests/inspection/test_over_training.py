"""Checkpoints that a run kept, and how its experts were used at each of them."""

import shutil

import numpy as np
import pytest
import torch

from experiments.data.windows import ScoredWindows
from experiments.finished.model import load_weights
from experiments.inspect import inspect_run
from experiments.inspection import over_training
from experiments.inspection.opened import opened
from experiments.inspection.results import TABLES, read_inspection
from experiments.points.planning import make_point
from experiments.records.files import DamagedError, read_record
from experiments.training.checkpoints import LAST
from experiments.training.evaluation import evaluate
from experiments.training.execute import execute
from tests.conftest import TINY

pytestmark = pytest.mark.slow
LAYERS = ("trunk.ffn_blocks=[1]", "n_experts=256")


@pytest.fixture(scope="module")
def make(tmp_path_factory, compose_raw):
    """make(name, ...): the point with its results in a folder of that name."""
    folder = tmp_path_factory.mktemp("kept")

    def point(name, *overrides):
        paths = (f"paths.results={folder / name}", f"paths.cache={folder / 'cache'}")
        fixed = ("model=peer", "size=2", "budget=2e9", *LAYERS, *TINY)
        return make_point(compose_raw(*fixed, *paths, *overrides))

    return point


@pytest.fixture(scope="module")
def kept(make):
    """A finished run that kept two checkpoints: its folder, its record, and their steps."""
    point = make("kept", "trainer.keep_at=[0.5,0.1]")
    record = execute(point)
    assert record.status == "done"
    steps = sorted(int(path.stem.removeprefix("step-")) for path in point.run_dir.glob("step-*"))
    return point.run_dir, record, steps


def look(run_dir, folder, *texts, **settings):
    cache = read_record(run_dir / "record.json").config["paths"]["cache"]
    return inspect_run(run_dir, texts, [f"paths.cache={cache}"], folder=folder, **settings)


def files(folder):
    names = ("card.json", "inspect.html", *(f"{name}.csv" for name in TABLES))
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.long
def test_keeping_changes_no_run_and_each_leads_to_its_end(make, kept):
    run_dir, record, steps = kept
    n = record.n_steps
    assert steps == [round(0.1 * n), round(0.5 * n)]
    for number, step in enumerate(steps):
        other = make(f"from {number}")
        assert other.run_id == record.run_id
        other.run_dir.mkdir(parents=True)
        shutil.copy(run_dir / f"step-{step}.ckpt", other.run_dir / LAST)
        again = execute(other)
        assert (again.val_loss, again.usage) == (record.val_loss, record.usage)
    whole = execute(make("plain"))
    assert (whole.val_loss, whole.train_loss) == (record.val_loss, record.train_loss)


@pytest.mark.long
def test_cards_at_each_are_what_an_evaluation_finds(kept, tmp_path):
    run_dir, record, steps = kept
    cards = look(run_dir, tmp_path / "out")
    table = read_inspection(tmp_path / "out").tables["training"]
    assert table["step"].tolist() == 2 * [*steps, record.n_steps]
    assert table["layer"].tolist() == 3 * ["blocks.0.ffn"] + 3 * ["blocks.1.ffn"]
    assert (table["n_trained"] == table["step"] * record.batch_tokens).all()
    peer = table[table["layer"] == "blocks.1.ffn"].set_index("step")
    run = opened(run_dir, record, (), [f"paths.cache={record.config['paths']['cache']}"],
                 layers=None, change=None)  # fmt: skip
    (text,) = run.texts
    windows = ScoredWindows(
        text.tokens, seq_len=run.reading.seq_len, batch_size=run.reading.batch_size,
        max_tokens=text.max_tokens,
    )  # fmt: skip
    no_bytes = np.zeros(run.model.config.vocab_size)
    for step in steps:
        load_weights(run.model, run_dir / f"step-{step}.ckpt", step)
        found = evaluate(run.model, windows, no_bytes, torch.device("cpu"))
        assert (peer.loc[step, "usage"], peer.loc[step, "unevenness"]) == (
            found.usage, found.unevenness
        )  # fmt: skip
    assert len(set(peer["unevenness"])) == 3
    assert peer.loc[record.n_steps, "usage"] == record.usage == cards[1].usage
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert page.count("Over training") == 2
    assert f"{peer.loc[steps[0], 'unevenness']:.3f}" in page


@pytest.mark.long
def test_an_interrupted_command_goes_on_with_the_next(kept, tmp_path, monkeypatch, capsys):
    run_dir, record, steps = kept
    look(run_dir, tmp_path / "whole")
    read, calls = over_training.read_through, []

    def cut(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(over_training, "read_through", cut)
    with pytest.raises(KeyboardInterrupt):
        look(run_dir, tmp_path / "cut")
    there = read_inspection(tmp_path / "cut").tables["training"]
    assert set(there["step"]) == {steps[0], record.n_steps}
    capsys.readouterr()
    look(run_dir, tmp_path / "cut")
    assert f"step {steps[0]} " not in capsys.readouterr().out
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    calls.clear()
    look(run_dir, tmp_path / "cut")
    assert not calls
    assert not list((tmp_path / "cut").glob("step-*"))


@pytest.mark.long
def test_the_rest_of_the_command_reads_the_runs_end(kept, tmp_path):
    run_dir, _, _ = kept
    look(run_dir, tmp_path / "two", find="the")
    both = look(run_dir, tmp_path / "one") and look(run_dir, tmp_path / "one", find="the")
    assert both
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.long
def test_a_damaged_one_is_named_and_one_that_kept_none_has_no_lines(make, kept, tmp_path):
    run_dir, record, steps = kept
    shutil.copytree(run_dir, tmp_path / "run")
    path = tmp_path / "run" / f"step-{steps[1]}.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedError, match=path.name):
        look(tmp_path / "run", tmp_path / "out")
    assert set(read_inspection(tmp_path / "out").tables["training"]["step"]) == {
        steps[0], record.n_steps
    }  # fmt: skip
    for each in (tmp_path / "run").glob("step-*"):
        each.unlink()
    look(tmp_path / "run", tmp_path / "none")
    assert not len(read_inspection(tmp_path / "none").tables["training"])
    assert "Over training" not in (tmp_path / "none" / "inspect.html").read_text()
