"""Checkpoints that a run kept, and how its experts were used at each of them."""

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.data.windows import ScoredWindows
from experiments.finished.model import load_weights
from experiments.inspect import explain_text, inspect_run, keep_text
from experiments.inspection import over_training
from experiments.inspection.opened import opened
from experiments.inspection.results import TABLES, read_inspection
from experiments.points.planning import make_point
from experiments.records.files import DamagedError, read_record
from experiments.system import disk
from experiments.training.checkpoints import LAST
from experiments.training.evaluation import evaluate
from experiments.training.execute import execute
from tests.conftest import TINY
from tests.system.test_several_files import Cut, changes

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


def cache_of(run_dir):
    return f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"


def look(run_dir, folder, *texts, **settings):
    return inspect_run(run_dir, texts, [cache_of(run_dir)], folder=folder, **settings)


def files(folder):
    names = ("card.json", "inspect.html", *(f"{name}.csv" for name in TABLES))
    return {name: (folder / name).read_bytes() for name in names}


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


@pytest.fixture(scope="module")
def begun(kept, tmp_path_factory):
    """A folder of a whole inspection, and one before the last of two checkpoints is read."""
    run_dir, record, _ = kept
    top = tmp_path_factory.mktemp("begun")
    look(run_dir, top / "whole", find="the")
    with pytest.MonkeyPatch.context() as patch:
        read, calls = over_training.read_through, []

        def cut(*given):
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return read(*given)

        patch.setattr(over_training, "read_through", cut)
        with pytest.raises(KeyboardInterrupt):
            look(run_dir, top / "cut", find="the")
    paths = [f"paths.cache={record.config['paths']['cache']}"]
    return top, opened(run_dir, record, (), paths, layers=None, change=None)


@pytest.mark.parametrize(
    "points", [pytest.param(4, marks=pytest.mark.long), pytest.param(99, marks=pytest.mark.night)]
)
@pytest.mark.parametrize("how", [Cut, OSError])
def test_the_page_of_a_command_that_was_killed_is_finished_by_the_next(
    kept, begun, tmp_path, how, points, monkeypatch
):
    """Killed, or on a full disk, at any change of the disk after the last statistics were read."""
    (run_dir, *_), (top, run) = kept, begun
    monkeypatch.setattr("experiments.inspection.opened.opened", lambda *given, **more: run)
    monkeypatch.setattr(disk, "has_ended", lambda mark: True)
    expected = files(top / "whole")

    def ended(last):
        """Whether a command that is cut at the change number `last` came to its end."""
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        shutil.copytree(top / "cut", tmp_path / "cut")
        shutil.copy(top / "whole" / "statistics.npz", tmp_path / "cut")

        def fail(n):
            if how is OSError and n == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            if how is Cut and n >= last:
                raise Cut

        with pytest.MonkeyPatch.context() as patch:
            count = changes(patch, fail)
            try:
                look(run_dir, tmp_path / "cut")
            except (Cut, OSError, RuntimeError):
                return False, count[0]
            return True, count[0]

    _, n = ended(10**6)
    assert n > 10
    for last in np.unique(np.linspace(1, n, min(points, n)).astype(int)):
        ended(last)
        look(run_dir, tmp_path / "cut")
        assert files(tmp_path / "cut") == expected, last
        names = {path.name for path in (tmp_path / "cut").iterdir()}
        assert not {name for name in names if name.startswith("step-") or ".waiting" in name}
    assert "Over training" in (tmp_path / "cut" / "inspect.html").read_text()


def test_what_is_damaged_is_named_and_made_again_as_it_was(kept, begun, tmp_path, capsys):
    """From the statistics, with the strings and texts that were added, and without another pass."""
    (run_dir, _, _), (top, _) = kept, begun
    folder = tmp_path / "out"
    shutil.copytree(top / "whole", folder)
    explained = explain_text(run_dir, "the cat", [cache_of(run_dir)])
    assert keep_text(run_dir, explained, folder)
    expected = files(folder)
    for names in (["lifts.csv"], ["parts.csv", "strings.csv", "excerpts.csv"], ["inspect.html"],
                  ["experts.csv", "training.csv", "tokens.csv"]):  # fmt: skip
        for name in names:
            content = (folder / name).read_bytes()
            (folder / name).write_bytes(content[: len(content) // 2])
        capsys.readouterr()
        look(run_dir, folder)
        out, err = capsys.readouterr()
        for name in names:
            assert f"{folder / name} is not the file that was written (its SHA-256 is" in err
        assert err.count("; it is made again\n") == len(names)
        assert ("of 2 texts" in out or "texts: statistics" in out) == (names != ["inspect.html"])
        assert files(folder) == expected, names
    # without the weights there is nothing to make it of
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / LAST).unlink()
    (folder / "lifts.csv").unlink()
    with pytest.raises(ValueError, match=f"has no {LAST} to read; put a copy of it back"):
        look(tmp_path / "run", folder)
    # of other weights it is another inspection, and no text of theirs is added to it
    found = read_inspection(top / "whole")
    assert not keep_text(run_dir, replace(explained, weights="0" * 64), top / "whole")
    assert read_inspection(top / "whole").typed == found.typed == {}


def test_the_rest_of_the_command_reads_the_runs_end(kept, tmp_path):
    run_dir, _, _ = kept
    look(run_dir, tmp_path / "two", find="the")
    both = look(run_dir, tmp_path / "one") and look(run_dir, tmp_path / "one", find="the")
    assert both
    assert files(tmp_path / "one") == files(tmp_path / "two")


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
