"""`inspect` and its further questions say what is typed wrong in one line, and write nothing."""

import json
import sys
from dataclasses import replace

import pytest

from experiments import inspect
from experiments.inspection.ablation import of_facts, of_texts
from experiments.records.files import read_record, write_record
from tests.conftest import WORDS
from tests.inspection.test_patch_command import trained  # noqa: F401  # a fixture

# words after the command, with places in braces, and a part of the line
INSPECT = [
    ([], "one run's folder is needed, and 0 are given"),
    (["{run}", "two"], "one run's folder is needed, and 2 are given"),
    (["{top}/nowhere"], "nowhere is not a finished run: it has no record.json"),
    (["{run}/record.json"], "record.json is not a finished run"),
    (["{run}", "size=3"], "size=3: unknown key here; known: texts=..., layers=..."),
    (["{run}", "--layers"], "--layers is not an option of this command; give layers=..."),
    (["{run}", "layers="], "layers= is empty; give a value, or leave it out"),
    (["{run}", "layers=[]"], "layers=[] names none; give layers=NAME,..., or leave it out"),
    (["{run}", "layers=,"], "layers=, names none"),
    (["{run}", "layers=blocks.7.ffn"], "blocks.7.ffn is no layer of this model that can be"),
    (["{run}", "layers=blocks.1"], "blocks.1 is no layer of this model"),
    (["{run}", "text="], "text= is empty; give a value"),
    (["{run}", "text=" + "cat " * 99], "more than the 32 that the model reads; shorten it"),
    (["{run}", "text=a", "text=b"], "text=a and text=b: give one"),
    (["{run}", "text=a", "top=0"], "top=0 must be a whole number of at least 1"),
    (["{run}", "text=a", "top=1.5"], "top=1.5 must be a whole number of at least 1"),
    (["{run}", "text=a", "top=99999999999"], "top=99999999999 must be at most 999,999,999"),
    (["{run}", "text=a", "layers=blocks.9.ffn"], "blocks.9.ffn is no layer of this model"),
    (["{run}", "top=2"], "top= is of text=...; give one, or leave it out"),
    (["{run}", "find="], "find= is empty"),
    (["{run}", "find= "], "find=' ' is white space alone"),
    (["{run}", "find=zebras fly"], "find=zebras fly is nowhere in the texts that are read"),
    (["{run}", "texts=nope"], "texts=nope is no file, and no set; sets are c4"),
    (["{run}", "texts=[]"], "texts=[] names none"),
    (["{run}", "texts={top}"], "is a folder without index.json; name a text in it"),
    (["{run}", "texts={top}/empty.txt"], "has 0 tokens: too few, one to read and one to predict"),
    (["{run}", "texts={top}/torn.txt"], "is not UTF-8 (invalid start byte); convert it first"),
    (["{run}", "texts={cats},{top}/more/cats.txt"], "two texts are named cats; rename a file"),
    (["{run}", "out=/proc/x"], "/proc/x can't be written: No such file or directory"),
    (["{run}", "out={cats}"], "cats.txt can't be written: Not a directory"),
    (["{run}", "before={run}"], "started from no run: experts of the same number are others"),
    (["{run}", "before={top}"], "is not a finished run"),
    (["{run}", "patch=none.json"], "patch=none.json does not exist; name the file of a patch"),
    (["{run}", "patch={top}/braces.json"], "is no patch that can be used: the file must have"),
    (["{run}", "patch={top}/other.json"], "other.json is a patch of the run ffffffffffff, and"),
    (["{run}", "evaluation.max_tokens=0"], "evaluation.max_tokens=0 must be at least 1, or null"),
    (["{run}", "eval.packages.splits=[hpo]"], "is of no set that is read (texts= names none)"),
]
PATCH = [
    (["{run}"], "a run and a file are needed, and 1 given"),
    (["{run}", "{new}", "three"], "a run and a file are needed, and 3 given"),
    (["{run}", "{new}"], "new.json does not exist; name the file of a patch"),
    (["{top}", "{new}", "remove=[1]"], "is not a finished run: it has no record.json"),
    (["{run}", "{new}", "layer=blocks.1.ffn"], "layer= is of an edit; give remove="),
    (["{run}", "{new}", "top=3"], "top=3: unknown key here; known: layer=..., remove=..."),
    (["{run}", "{new}", "remove=[]"], "no expert is named; give remove=[17]"),
    (["{run}", "{new}", "remove="], "remove= is empty; give a value"),
    (["{run}", "{new}", "remove=[x]"], "'x' is no index and no range of them"),
    (["{run}", "{new}", "remove=[-1]"], "'-1' is no index and no range of them"),
    (["{run}", "{new}", "remove=[2-1]"], "'2-1' is no index and no range of them"),
    (["{run}", "{new}", "remove=[0-999999999]"], "'0-999999999' is no index and no range of"),
    (["{run}", "{new}", "remove=[1"], "'[1' is no index and no range of them"),
    (["{run}", "{new}", "remove=[\u0661]"], "'\u0661' is no index and no range of them"),
    (["{run}", "{new}", "remove=[64]"], "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
    (["{run}", "{new}", "remove=[1,1]"], "expert 1 of blocks.1.ffn is in two edits"),
    (["{run}", "{new}", "remove=[1]", "remove=[2]"], "remove=[1] and remove=[2]: give one"),
    (["{run}", "{new}", "remove=[1]", "swap=[1:2]"], "is in two edits (remove and swap)"),
    (["{run}", "{new}", "swap=[1]"], "'1' is no pair of experts; give swap=[17:4000,5:6]"),
    (["{run}", "{new}", "swap=[1:2:3]"], "'1:2:3' is no pair of experts"),
    (["{run}", "{new}", "swap=[1:1]"], "expert 1 of blocks.1.ffn is in two edits (swap and swap)"),
    (["{run}", "{new}", "swap=[1:64]"], "expert 64 is not of blocks.1.ffn"),
    (["{run}", "{new}", "add=[5]"], "'5' is no pair of experts; give add="),
    (["{run}", "{new}", "add=[1:2,1:3]"], "two experts are added at one index of blocks.1.ffn"),
    (["{run}", "{new}", "add=[64:1]"], "expert 64 is not of blocks.1.ffn"),
    (["{run}", "{new}", "add=[1:2]", "from={top}"], "is not a finished run"),
    (["{run}", "{new}", "remove=[1]", "from=x"], "from= is of add=[I:J]; give that too"),
    (["{run}", "{new}", "remove=[1]", "layer="], "layer= is empty"),
    (["{run}", "{new}", "remove=[1]", "layer=blocks.7.ffn"], "blocks.7.ffn is no layer of this"),
    (["{run}", "{new}", "remove=[1]", "patch=none.json"], "patch=none.json does not exist"),
    (["{run}", "{new}", "remove=[1]", "patch={top}/other.json"], "is a patch of the run ffffffff"),
    (["{run}", "{top}/x.txt", "remove=[1]"], "x.txt must end with .json; name the file so"),
    (["{run}", "{top}/no/x.json", "remove=[1]"], "is not a folder; make it first"),
    (["{run}", "{cats}/x.json", "remove=[1]"], "cats.txt is not a folder; make it first"),
    (["{run}", "{top}/braces.json", "remove=[1]"], "braces.json exists; name another file"),
    (["{run}", "/proc/x.json", "remove=[1]"], "/proc can't be written"),
]
TEXTS = ["{run}", "texts={cats},{dogs}"]
FACTS = ["{run}", "facts={top}/facts.jsonl"]
ABLATE = [
    (["{run}"], "no experts are chosen; give experts=[17], domain=NAME or facts=FILE"),
    (["{run}", "two", "experts=[1]"], "one run's folder is needed, and 2 are given"),
    (["{top}", "experts=[1]"], "is not a finished run"),
    ([*TEXTS, "experts=[1]", "domain=a"], "experts= and domain= choose experts in two ways"),
    ([*TEXTS, "experts=[1]", "top=3"], "top= is of domain= and facts="),
    ([*TEXTS, "experts=[1]", "patch=x"], "patch=x: unknown key here; known: layer=..., experts="),
    ([*TEXTS, "experts=[]"], "experts= names none; give experts=[17,40-52]"),
    ([*TEXTS, "experts=[-1]"], "'-1' is no index and no range of them"),
    ([*TEXTS, "experts=[64]"], "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
    ([*TEXTS, "experts=[3,3]"], "expert 3 of blocks.1.ffn is in two edits"),
    ([*TEXTS, "experts=[1]", "draws=1"], "draws=1 must be a whole number of at least 2"),
    ([*TEXTS, "experts=[1]", "draws=99999"], "draws=99999 must be at most 1,000"),
    ([*TEXTS, "experts=[1]", "draws=2.5"], "draws=2.5 must be a whole number of at least 2"),
    ([*TEXTS, "experts=[1]", "seed=-1"], "seed=-1 must be a whole number of at least 0"),
    ([*TEXTS, "experts=[1]", "seed=99999999999999"], "seed=99999999999999 must be at most 999,"),
    ([*TEXTS, "experts=[1]", "layer="], "layer= is empty; give a value, or leave it out"),
    ([*TEXTS, "experts=[1]", "layer=blocks.9.ffn"], "blocks.9.ffn is no layer of this model"),
    ([*TEXTS, "experts=[1]", "out=/proc/x"], "/proc/x can't be written"),
    ([*TEXTS, "experts=[1]", "out={cats}"], "cats.txt can't be written: Not a directory"),
    ([*TEXTS, "experts=[1]", "eval=[packages]"], "give texts=NAME"),
    (
        [*TEXTS, "experts=[1]", "eval.packages.splits=[hpo]"],
        "is of no set that is read (texts= names none); give texts=packages",
    ),
    (
        ["{run}", "texts=packages", "experts=[1]", "eval.packages.split=[hpo]"],
        "eval.packages.split: unknown key",
    ),
    ([*TEXTS, "experts=[1]", "evaluation.max_tokens=40"], "cats has 1 windows to tell of, and an"),
    ([*TEXTS, "domain="], "domain= is empty"),
    ([*TEXTS, "domain=birds"], "must be one of at least two texts, and they are cats, dogs"),
    ([*TEXTS, "domain=cats", "top=0"], "top=0 must be a whole number of at least 1"),
    (["{run}", "texts={cats}", "domain=cats"], "must be one of at least two texts"),
    (["{run}", "texts=nope", "experts=[1]"], "texts=nope is no file, and no set"),
    (["{run}", "texts={top}/few.txt", "experts=[1]"], "windows to tell of, and an interval is"),
    (["{run}", "texts={top}/empty.txt", "experts=[1]"], "has 0 tokens: too few"),
    ([*FACTS, "texts={cats}"], "facts= and texts= are two ablations"),
    ([*FACTS, "domain=cats"], "domain= and facts= choose experts in two ways"),
    ([*FACTS, "experts=[64]"], "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
    (["{run}", "facts={top}/none"], "can't be read: No such file or directory; name a file"),
    (["{run}", "facts={top}"], "can't be read: Is a directory; name a file"),
    (["{run}", "facts={top}/empty.txt"], "has 0 facts, and specificity is told of at least 20"),
    (["{run}", "facts={top}/braces.json"], "braces.json, line 1: '' are not its keys; a fact is"),
    (["{run}", "facts={top}/torn.txt"], "is not UTF-8; convert it first"),
]
DOORS = [((), ()), (("patch",), ("new.json", "remove=[1]")), (("ablate",), ("experts=[1]",))]
ROWS = [
    pytest.param((*question, *words), said, id=f"{' '.join((*question, *words[1:]))}")
    for question, rows in (((), INSPECT), (("patch",), PATCH), (("ablate",), ABLATE))
    for words, said in rows
]


@pytest.fixture(scope="module")
def places(tmp_path_factory, trained):  # noqa: F811
    """Places of the rows."""
    top = tmp_path_factory.mktemp("typed")
    (top / "more").mkdir()
    (top / "torn.txt").write_bytes(b"\xff\xfe\xff")
    nobody = {"format": 1, "run_id": "f" * 12, "weights": "0" * 64}
    layer = {"name": "a", "kind": "PEER", "n_experts": 64, "remove": [1], "swap": [], "add": []}
    facts = [
        {"prompt": f"{word} {i}", "target": f" {WORDS[i % 12]}",
         "siblings": [{"prompt": f"{word} {i + 1}", "target": " it"}]}
        for i, word in enumerate(WORDS * 2)
    ]  # fmt: skip
    for name, text in (
        ("cats.txt", "the cat sat on a mat . " * 200),
        ("dogs.txt", "seven dogs ran past it . " * 200),
        ("few.txt", "the cat sat on a mat . " * 10),
        ("more/cats.txt", "the cat"),
        ("empty.txt", ""),
        ("braces.json", "{}"),
        ("other.json", json.dumps({**nobody, "layers": [layer]})),
        ("facts.jsonl", "\n".join(map(json.dumps, facts))),
    ):
        (top / name).write_text(text)
    return {
        "run": trained,
        "top": top,
        "cats": top / "cats.txt",
        "dogs": top / "dogs.txt",
        "new": top / "new.json",
        "cache": read_record(trained / "record.json").config["paths"]["cache"],
    }


@pytest.mark.parametrize(("words", "said"), ROWS)
def test_what_is_typed_wrong_is_said_in_one_line(words, said, places, monkeypatch, capsys):
    def files():
        folders = places["run"], places["top"]
        return {(path, path.stat().st_mtime_ns) for top in folders for path in top.rglob("*")}

    before = files()
    given = [word.format(**places) for word in [*words, "paths.cache={cache}"]]
    monkeypatch.setattr(sys, "argv", ["experiments.inspect", *given])
    monkeypatch.setattr(of_texts, "text_mass", None)  # nothing is computed before
    monkeypatch.setattr(of_facts, "contributions", None)
    with pytest.raises(SystemExit) as end:
        inspect.main()
    out, err = capsys.readouterr()
    assert end.value.code == (1 if "can't be written" in said else 2)
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
    assert {path for path, _ in files() ^ before} <= {
        places["run"],
        places["top"],
    }  # a try to write


@pytest.mark.parametrize(("question", "more"), DOORS, ids=str)
def test_a_run_that_diverged_is_refused(question, more, places, tmp_path, monkeypatch, capsys):
    record = read_record(places["run"] / "record.json")
    write_record(tmp_path, replace(record, status="diverged"))
    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(sys, "argv", ["inspect", *question, str(tmp_path), *more])
    with pytest.raises(SystemExit):
        inspect.main()
    said = "is diverged, and only a run that is done can be used"
    assert said in capsys.readouterr().err


def test_each_door_has_thirty_cases():
    assert min(map(len, (INSPECT, PATCH, ABLATE))) >= 30
