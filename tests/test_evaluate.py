"""`python -m experiments.evaluate`: what it adds to a record, and what it refuses."""

import math
import pickle
import shutil
from dataclasses import replace

import pytest
import torch

from experiments import evaluate
from experiments.evaluate import evaluate_run
from experiments.records.files import DamagedError, read_record, write_record
from tests.conftest import SMALL_PEER, run_cache
from tests.rounding import relative


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of a finished run, to be scored."""
    return shutil.copytree(trained(*SMALL_PEER), tmp_path / "run")


def score(run_dir, *overrides):
    return evaluate_run(run_dir, ["eval=[validation]", run_cache(run_dir), *overrides])


def test_adds_to_the_record_and_changes_nothing_else(run_dir):
    before = read_record(run_dir / "record.json")
    record = score(run_dir)
    assert record == read_record(run_dir / "record.json")
    assert replace(record, evaluations={}) == before
    result = record.evaluations["validation"]
    assert result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    assert result["n_tokens"] > before.n_eval_tokens


def test_is_the_number_that_the_run_itself_found(run_dir):
    """Same windows as in the run: the same loss to the bit, from the checkpoint."""
    before = read_record(run_dir / "record.json")
    record = score(run_dir, f"evaluation.max_tokens={before.n_eval_tokens}")
    (result,) = record.evaluations.values()
    assert result["loss"] == before.val_loss
    assert result["bits_per_byte"] == before.bits_per_byte


def test_rules_stand_beside_each_other_and_batches_change_nothing(run_dir):
    score(run_dir)
    score(run_dir, "evaluation.stride=8")
    record = score(run_dir, "evaluation.batch_size=3")
    losses = {name: r["loss"] for name, r in record.evaluations.items()}
    assert set(losses) == {"validation", "validation@stride=8", "validation@batch_size=3"}
    assert losses["validation@batch_size=3"] == pytest.approx(losses["validation"], rel=relative(1))
    assert losses["validation@stride=8"] < losses["validation"]  # more context


def test_what_was_scored_is_not_scored_again(run_dir):
    score(run_dir)
    (run_dir / "last.ckpt").write_bytes(b"no longer a checkpoint")
    score(run_dir)


def test_refuses_runs_that_are_not_done(run_dir, tmp_path):
    with pytest.raises(ValueError, match=r"is not a finished run: it has no record.json"):
        evaluate_run(tmp_path, ["eval=[validation]"])
    record = read_record(run_dir / "record.json")
    write_record(run_dir, replace(record, status="diverged"))
    with pytest.raises(ValueError, match="is diverged, and only a run that is done"):
        score(run_dir)
    write_record(run_dir, record)
    (run_dir / "last.ckpt").unlink()
    with pytest.raises(ValueError, match=r"has no last.ckpt to read"):
        score(run_dir)


def test_help_lists_the_sets(command):
    code, out, _ = command(evaluate, "--help")
    assert code == 0
    assert "eval=[NAME,...]             c4, curation, lambada" in out


def test_the_command_scores_named_sets(run_dir, cache, command):
    sets = ("eval=[validation,wikitext2]", "evaluation.max_tokens=9600", f"paths.cache={cache}")
    code, out, err = command(evaluate, run_dir, *sets)
    assert code == 0, err
    record = read_record(run_dir / "record.json")
    assert set(record.evaluations) == {f"{n}@max_tokens=9600" for n in ("validation", "wikitext2")}
    # a vocabulary of 270 made of a dozen words: nearly a token a byte, and a foreign text
    wikitext = record.evaluations["wikitext2@max_tokens=9600"]
    assert wikitext["bytes_per_token"] < 1.3
    assert f"{wikitext['perplexity']:.2f}" in out


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes().replace(b"\0\0", b"\0\1", 1)),
    "pickled": lambda path: path.write_bytes(pickle.dumps({"state_dict": {}})),
    "no state_dict": lambda path: torch.save({"global_step": 3}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "other weights": lambda path: change(path, state_dict={"model.a": torch.ones(2)}),
    "another step": lambda path: change(path, global_step=3),
}


def change(path, **values):
    torch.save({**torch.load(path, weights_only=True), **values}, path)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_one_line_and_no_other_replaces_it(run_dir, name):
    last = run_dir / "last.ckpt"
    shutil.copy(last, run_dir / "previous.ckpt")
    DAMAGES[name](last)
    before = (run_dir / "record.json").read_bytes()
    with pytest.raises(DamagedError, match=r"last.ckpt is damaged .*; put a copy of it back") as e:
        score(run_dir)
    assert "\n" not in str(e.value)
    assert (run_dir / "record.json").read_bytes() == before
