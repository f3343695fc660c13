"""`python -m experiments.inspect ablate`: what it prints and writes, and what it refuses."""

import json
import sys

import pandas as pd
import pytest

from experiments import inspect
from experiments.inspection.ablation import of_texts
from experiments.records.files import read_record
from tests.conftest import WORDS
from tests.inspection.test_patch_command import run_dir, trained  # noqa: F401  # fixtures

LAYER = "layer=blocks.1.ffn"


@pytest.fixture
def command(monkeypatch, capsys, trained):  # noqa: F811
    """command("RUN", ...): exit code, stdout, stderr; the run's cache is named."""
    cache = f"paths.cache={read_record(trained / 'record.json').config['paths']['cache']}"

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["experiments.inspect", "ablate", *map(str, words), cache])
        try:
            inspect.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def texts(tmp_path):
    """texts=... of two files, each of enough windows."""
    first, second = tmp_path / "cats.txt", tmp_path / "dogs.txt"
    first.write_text("the cat sat on a mat . " * 200)
    second.write_text("seven dogs ran past it . " * 200)
    return f"texts={first},{second}"


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    made = [
        {"prompt": f"{word} {i}", "target": f" {WORDS[i % 12]}",
         "siblings": [{"prompt": f"{word} {i + 1}", "target": " it"}]}
        for i, word in enumerate(WORDS * 2)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, made)))
    return f"facts={path}"


def test_texts_are_told_of_beside_random_experts(run_dir, command, texts, monkeypatch):  # noqa: F811
    before = (run_dir / "record.json").read_bytes(), (run_dir / "last.ckpt").read_bytes()
    words = (run_dir, texts, "domain=cats", "top=4", "draws=2")
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    head, what, *table, place = out.splitlines()
    assert head.startswith("blocks.1.ffn: without 4 experts; 2 draws of as many others have ")
    assert what == "change of the loss, nats a token, with 95 % intervals over windows"
    assert [line.split()[0] for line in table[1:]] == ["cats", "dogs", "specificity"]
    assert place == f"tables: {run_dir / 'ablation'}"
    (path,) = (run_dir / "ablation").glob("*.json")
    content = json.loads(path.read_text())
    assert len(content["experts"]["all"]) == 4
    assert content["identity"]["run_id"] == read_record(run_dir / "record.json").run_id
    rows = pd.read_csv(path.with_suffix(".csv"))
    assert rows["what"].tolist() == ["cats", "dogs", "specificity"]
    assert (rows["chosen_low"] <= rows["chosen"]).all()
    assert before == ((run_dir / "record.json").read_bytes(), (run_dir / "last.ckpt").read_bytes())
    with pytest.MonkeyPatch.context() as patch:  # what was asked is not asked again
        patch.setattr(of_texts, "ablate_texts", lambda *_: pytest.fail("asked again"))
        assert command(*words)[1] == out
    assert command(*words, "seed=1")[0] == 0
    assert len(list((run_dir / "ablation").glob("*.json"))) == 2


def test_facts_are_told_of_beside_their_siblings(run_dir, command, facts):  # noqa: F811
    code, out, err = command(run_dir, facts, "top=3", "draws=2")
    assert (code, err) == (0, "")
    assert "experts for each fact; 2 draws of as many others have" in out
    assert "nats a target, with 95 % intervals over facts" in out
    names = [line.split()[0] for line in out.splitlines()[3:-1]]
    assert names == ["target", "siblings", "controls", "specificity"]
    assert command(run_dir, facts, "experts=[1,2]", "draws=2")[0] == 0
