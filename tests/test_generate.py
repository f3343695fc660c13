"""`python -m experiments.generate`: what it prints, and what it refuses."""

import io
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from experiments import generate
from experiments.finished import model as finished
from experiments.finished.model import read_finished
from experiments.models import generation
from experiments.records.files import read_record, write_record
from tests.conftest import SMALL_PEER, run_cache


@pytest.fixture
def run_dir(trained):
    return trained(*SMALL_PEER)


@pytest.fixture
def call(command, monkeypatch, run_dir):
    """call("text", "seed=1", ...): exit code, stdout, stderr; the run's cache is named."""

    def generated(*words, run=run_dir, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return command(generate, run, run_cache(run_dir), *words)

    return generated


def by_hand(run_dir, text, n):
    """Likeliest token of the whole text, n times, or to the end of the text."""
    _, vocabulary, model = read_finished(run_dir, [run_cache(run_dir)])
    tokenizer = vocabulary.tokenizer()
    ids = tokenizer.encode(text).ids
    for _ in range(n):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == vocabulary.end_of_text:
            break
        ids.append(token)
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_greedy_text_is_what_the_model_makes_without_a_cache(call, run_dir):
    code, out, err = call("the cat", "max_tokens=20")
    assert code == 0
    assert out == by_hand(run_dir, "the cat", 20) + "\n"
    assert " tokens, " in err
    assert call("the cat", "max_tokens=20")[1] == out


def test_several_texts_and_standard_input(call):
    one, two = (call(text, "max_tokens=5")[1] for text in ("the cat", "seven dogs"))
    assert call("the cat", "seven dogs", "max_tokens=5")[1] == f"{one}\n{two}"
    assert call("max_tokens=5", stdin="seven dogs\n")[1] == two
    assert call("max_tokens=5", "--", "a=b")[1].startswith("a=b")
    for text in ("--top-p 1", "--help"):
        assert call("max_tokens=5", "--", text)[1].startswith(text)
    assert call("max_tokens=5", "-5 degrees")[1].startswith("-5 degrees")
    assert call("", "max_tokens=5")[0] == 0


def test_draws_by_temperature_and_seed(call):
    options = ("max_tokens=30", "temperature=1.5", "top_p=0.9")
    texts = {seed: call("the", f"seed={seed}", *options)[1] for seed in (0, 1)}
    assert texts[0] != texts[1]
    assert call("the", "seed=0", *options)[1] == texts[0]


def test_longer_than_it_was_trained_on_is_remarked(call):
    _, _, err = call("the cat sat", "max_tokens=40", "temperature=9", "seed=3")
    assert "tokens in all, and it was trained on 32" in err


def test_refuses_bytes_that_are_no_text(call):
    code, out, err = call("the", "--", "caf\udce9")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "'caf\\udce9' has bytes that are not UTF-8" in err


def test_refuses_runs_that_are_not_done_or_not_causal(call, run_dir, tmp_path):
    code, _, err = call("the", run=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not a finished run: it has no record.json" in err
    record = read_record(run_dir / "record.json")
    write_record(tmp_path, record)
    code, _, err = call("the", run=tmp_path)
    assert "has no last.ckpt" in err
    (tmp_path / "last.ckpt").write_bytes(b"never read")
    write_record(tmp_path, replace(record, causal_eval=False))
    code, _, err = call("the", run=tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "expert choice" in err


def test_another_cache_needs_no_text_while_the_run_s_own_has_the_tokenizer(
    call, run_dir, tmp_path, monkeypatch
):
    """paths.cache is given twice; the last one counts."""
    other = tmp_path / "other"
    code, out, err = call("the cat", "max_tokens=4", f"paths.cache={other}")
    assert (code, out) == (0, by_hand(run_dir, "the cat", 4) + "\n")
    assert "made again" not in err
    assert not other.exists()
    record = read_record(run_dir / "record.json")
    moved = replace(record, config={**record.config, "paths": {"cache": str(tmp_path / "lost")}})
    monkeypatch.setattr(finished, "finished_record", lambda run_dir: moved)
    code, again, err = call("the cat", "max_tokens=4", f"paths.cache={other}")
    assert (code, again) == (0, out)
    assert f"it is made again in {other}, from the text of Nursery; paths.cache=" in err


def test_help_and_no_words(command):
    for words in ((), ("--help",)):
        assert "temperature=T" in command(generate, *words)[1]


def test_it_streams(call, monkeypatch):
    """A piece is there, whole, before the next token is made."""
    shown, seen, next_token = [0], [], generation.next_token

    class Out(io.StringIO):
        def flush(self):
            shown[0] = len(self.getvalue())

    def made(*given):
        seen.append(shown[0])
        return next_token(*given)

    monkeypatch.setattr(generation, "next_token", made)
    monkeypatch.setattr(sys, "stdout", Out())
    call("the cat", "max_tokens=20")
    assert seen[0] == len("the cat")
    assert all(before < after for before, after in pairwise(seen))
