"""`python -m experiments.ablate`: what it prints and writes, and what it refuses."""

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest

from experiments import ablate
from experiments.inspection.ablation import of_facts, of_texts
from experiments.records.files import read_record, write_record
from tests.conftest import WORDS
from tests.inspection.test_patch_command import run_dir, trained  # noqa: F401  # fixtures

LAYER = "layer=blocks.1.ffn"


@pytest.fixture
def command(monkeypatch, capsys, trained):  # noqa: F811
    """command("RUN", ...): exit code, stdout, stderr; the run's cache is named."""
    cache = f"paths.cache={read_record(trained / 'record.json').config['paths']['cache']}"

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["experiments.ablate", *map(str, words), cache])
        try:
            ablate.main()
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


@pytest.mark.long
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
        patch.setattr(of_texts, "ablate_texts", None)
        assert command(*words)[1] == out
    assert command(*words, "seed=1")[0] == 0
    assert len(list((run_dir / "ablation").glob("*.json"))) == 2


@pytest.mark.long
def test_facts_are_told_of_beside_their_siblings(run_dir, command, facts):  # noqa: F811
    code, out, err = command(run_dir, facts, "top=3", "draws=2")
    assert (code, err) == (0, "")
    assert "experts for each fact; 2 draws of as many others have" in out
    assert "nats a target, with 95 % intervals over facts" in out
    names = [line.split()[0] for line in out.splitlines()[3:-1]]
    assert names == ["target", "siblings", "controls", "specificity"]
    assert command(run_dir, facts, "experts=[1,2]", "draws=2")[0] == 0


@pytest.mark.long
def test_what_is_typed_wrong_is_said_in_one_line(
    run_dir,  # noqa: F811
    command,
    texts,
    facts,
    tmp_path,
    monkeypatch,
):
    few = tmp_path / "few.txt"
    few.write_text("the cat sat on a mat . " * 10)
    monkeypatch.setattr(of_texts, "text_mass", None)
    monkeypatch.setattr(of_facts, "contributions", None)
    for words, message in (
        ([run_dir], "no experts are chosen; give experts=[17], domain=NAME or facts=FILE"),
        ([run_dir, "two", "experts=[1]"], "one run's folder is needed, and 2 are given"),
        ([run_dir, "experts=[1]", "domain=a"], "experts= and domain= choose experts in two ways"),
        ([run_dir, facts, texts], "facts= and texts= are two ablations"),
        ([run_dir, "experts=[1]", "top=3"], "top= is of domain= and facts="),
        ([run_dir, "experts=[]"], "experts= names none"),
        ([run_dir, "experts=[1]", "draws=1"], "draws=1 must be a whole number of at least 2"),
        ([run_dir, texts, "domain=birds"], "must be one of at least two texts, and they are cats"),
        ([run_dir, f"texts={few}", "experts=[1]"], "windows to tell of, and an interval is told"),
        ([run_dir, texts, "experts=[64]"], "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
        ([run_dir, facts, "experts=[64]"], "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
        ([run_dir, texts, "experts=[3,3]"], "expert 3 of blocks.1.ffn is in two edits"),
        ([run_dir, f"facts={tmp_path / 'none'}"], "can't be read: No such file"),
        ([run_dir, texts, "experts=[1]", "eval=[packages]"], "give texts=NAME"),
        (
            [run_dir, texts, "experts=[1]", "eval.packages.splits=[hpo]"],
            "eval.packages.splits=[hpo] is of no set that is read (texts= names none); give "
            "texts=packages",
        ),
        (
            [run_dir, "texts=packages", "experts=[1]", "eval.packages.split=[hpo]"],
            "eval.packages.split: unknown key",
        ),
        (
            [run_dir, texts, "experts=[1]", "layer=blocks.9.ffn"],
            "blocks.9.ffn is no layer of this model",
        ),
    ):
        code, _, err = command(*words)
        assert code == 2, words
        assert message in err
        assert err.count("\n") == 1
    record = read_record(run_dir / "record.json")
    write_record(run_dir, replace(record, status="diverged"))
    assert "only a run that is done can be used" in command(run_dir, "experts=[1]")[2]
