"""`python -m experiments.generate`: what it prints, and what it refuses."""

import io
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from experiments import generate as command_module
from experiments.finished import model as finished
from experiments.finished.model import read_finished
from experiments.points.planning import make_point
from experiments.records.files import read_record, write_record
from experiments.training.execute import execute
from tests.conftest import TINY


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, compose_raw):
    """Folder of a finished tiny run."""
    folder = tmp_path_factory.mktemp("trained")
    paths = (f"paths.results={folder / 'results'}", f"paths.cache={folder / 'cache'}")
    small = ("n_experts=64", "model.d_key=8", "model.n_heads=2", "model.top_k=4")
    point = make_point(compose_raw("model=peer", "size=2", "budget=2e9", *small, *TINY, *paths))
    assert execute(point).status == "done"
    return point.run_dir


@pytest.fixture
def command(monkeypatch, capsys, run_dir):
    """command("text", "seed=1", ...): exit code, stdout, stderr; the run's cache is named."""
    cache = f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"

    def call(*words, run=run_dir, stdin=""):
        monkeypatch.setattr(sys, "argv", ["experiments.generate", str(run), cache, *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        try:
            command_module.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def by_hand(run_dir, text, n):
    """Likeliest token of the whole text, n times, or to the end of the text."""
    overrides = [f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"]
    _, vocabulary, model = read_finished(run_dir, overrides)
    tokenizer = vocabulary.tokenizer()
    ids = tokenizer.encode(text).ids
    for _ in range(n):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == vocabulary.end_of_text:
            break
        ids.append(token)
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_greedy_text_is_what_the_model_makes_without_a_cache(command, run_dir):
    code, out, err = command("the cat", "max_tokens=20")
    assert code == 0
    assert out == by_hand(run_dir, "the cat", 20) + "\n"
    assert " tokens, " in err
    assert command("the cat", "max_tokens=20")[1] == out


def test_several_texts_and_standard_input(command):
    one, two = (command(text, "max_tokens=5")[1] for text in ("the cat", "seven dogs"))
    assert command("the cat", "seven dogs", "max_tokens=5")[1] == f"{one}\n{two}"
    assert command("max_tokens=5", stdin="seven dogs\n")[1] == two
    assert command("max_tokens=5", "--", "a=b")[1].startswith("a=b")
    for text in ("--top-p 1", "--help"):
        assert command("max_tokens=5", "--", text)[1].startswith(text)
    assert command("max_tokens=5", "-5 degrees")[1].startswith("-5 degrees")
    assert command("", "max_tokens=5")[0] == 0


def test_draws_by_temperature_and_seed(command):
    options = ("max_tokens=30", "temperature=1.5", "top_p=0.9")
    texts = {seed: command("the", f"seed={seed}", *options)[1] for seed in (0, 1)}
    assert texts[0] != texts[1]
    assert command("the", "seed=0", *options)[1] == texts[0]


def test_longer_than_it_was_trained_on_is_remarked(command):
    _, _, err = command("the cat sat", "max_tokens=40", "temperature=9", "seed=3")
    assert "tokens in all, and it was trained on 32" in err


def test_refuses_bytes_that_are_no_text(command):
    code, out, err = command("the", "--", "caf\udce9")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'caf\\udce9' has bytes that are not UTF-8" in err


def test_refuses_runs_that_are_not_done_or_not_causal(command, run_dir, tmp_path):
    code, _, err = command("the", run=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a finished run: it has no record.json" in err
    record = read_record(run_dir / "record.json")
    write_record(tmp_path, record)
    code, _, err = command("the", run=tmp_path)
    assert "has no last.ckpt" in err
    (tmp_path / "last.ckpt").write_bytes(b"never read")
    write_record(tmp_path, replace(record, causal_eval=False))
    code, _, err = command("the", run=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "expert choice" in err


def test_another_cache_needs_no_text_while_the_run_s_own_has_the_tokenizer(
    command, run_dir, tmp_path, monkeypatch
):
    """paths.cache is given twice; the last one counts."""
    other = tmp_path / "other"
    code, out, err = command("the cat", "max_tokens=4", f"paths.cache={other}")
    assert (code, out) == (0, by_hand(run_dir, "the cat", 4) + "\n")
    assert "made again" not in err
    assert not other.exists()
    record = read_record(run_dir / "record.json")
    moved = replace(record, config={**record.config, "paths": {"cache": str(tmp_path / "lost")}})
    monkeypatch.setattr(finished, "finished_record", lambda run_dir: moved)
    code, again, err = command("the cat", "max_tokens=4", f"paths.cache={other}")
    assert (code, again) == (0, out)
    assert f"it is made again in {other}, from the text of Nursery; paths.cache=" in err


def test_help_and_no_words(monkeypatch, capsys):
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["experiments.generate", *words])
        command_module.main()
        assert "temperature=T" in capsys.readouterr().out


def test_it_streams(run_dir):
    """The first piece is there before the last is made."""
    cache = read_record(run_dir / "record.json").config["paths"]["cache"]
    words = [str(run_dir), "the cat", "max_tokens=4000", "temperature=3", f"paths.cache={cache}"]
    with subprocess.Popen(
        [sys.executable, "-m", "experiments.generate", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.read(12)
        assert process.poll() is None
        process.kill()
