"""`python -m experiments.inspect`: what it writes of a finished run, and what it refuses."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import inspect
from experiments.inspect import explain_text, inspect_run
from experiments.inspection import reading
from experiments.inspection.questions.patch import patch_run
from experiments.inspection.results import TABLES, read_inspection
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import TINY

LAYERS = ("trunk.ffn_blocks=[1]", "n_experts=256")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compose_raw):
    """Folder of a finished tiny run: a dense block, and one of PEER."""
    folder = tmp_path_factory.mktemp("trained")
    paths = (f"paths.results={folder / 'results'}", f"paths.cache={folder / 'cache'}")
    point = make_point(compose_raw("model=peer", "size=2", "budget=2e9", *LAYERS, *TINY, *paths))
    assert execute(point).status == "done"
    return point.run_dir


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of it."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("inspection"))
    return tmp_path / "run"


def cache_of(run_dir):
    return f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"


def look(run_dir, *texts, **settings):
    return inspect_run(run_dir, texts, [cache_of(run_dir)], **settings)


def test_usage_is_what_the_run_logged(run_dir, capsys):
    """Same tokens, to the bit. Tables hold what the card says."""
    record = read_record(run_dir / "record.json")
    dense, peer = look(run_dir)
    assert re.search(
        r"2 layers over 320 tokens of 1 texts: statistics take", capsys.readouterr().out
    )
    assert peer.usage == record.usage
    assert peer.unevenness == record.unevenness
    assert (dense.kind, dense.routed, dense.n_experts, dense.n_slots) == ("Dense", False, 128, 32)
    assert (peer.name, peer.n_experts, peer.n_slots) == ("blocks.1.ffn", 256, 32)
    assert peer.n_tokens == record.n_eval_tokens == 320
    folder = run_dir / "inspection"
    content = json.loads((folder / "card.json").read_text())["identity"]
    assert content["run_id"] == record.run_id
    assert content["texts"][0]["name"] == "validation"
    experts = [row for row in rows(folder / "experts.csv") if row["layer"] == peer.name]
    assert len(experts) == 256 - peer.n_never
    assert sum(int(row["n_slots"]) for row in experts) == 320 * 32
    # gates of a head add up to 1
    assert sum(float(row["mass"]) for row in experts) == pytest.approx(320 * 2, rel=1e-5)
    used = sum(float(row["mass"]) != 0 for row in experts) / 256
    assert used == pytest.approx(record.usage)
    contexts = [row for row in rows(folder / "contexts.csv") if row["layer"] == peer.name]
    by_expert = {row["expert"]: int(row["n_tokens"]) for row in experts}
    for expert, n in by_expert.items():
        own = [float(row["gate"]) for row in contexts if row["expert"] == expert]
        assert len(own) == min(8, n)
        assert own == sorted(own, reverse=True)
    assert {row["text"] for row in contexts} == {"validation"}
    tokens = [row for row in rows(folder / "tokens.csv") if row["layer"] == peer.name]
    assert {row["expert"] for row in tokens} == set(by_expert)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_was_read_is_not_read_again_and_no_other_results_take_its_place(run_dir, tmp_path):
    cards = look(run_dir)
    kept = (run_dir / "inspection" / "experts.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "LayerStatistics", None)
        assert look(run_dir) == cards
    with pytest.raises(ValueError, match=r"results of another inspection \(other layers_read\)"):
        look(run_dir, layers=["blocks.1.ffn"])
    assert (run_dir / "inspection" / "experts.csv").read_bytes() == kept
    (one,) = look(run_dir, layers=["blocks.1.ffn"], folder=tmp_path / "one")
    assert one == cards[1]


class Stopped(BaseException):
    """As a kill."""


def test_goes_on_after_an_interruption_with_the_same_results(run_dir, tmp_path, monkeypatch):
    whole = look(run_dir, folder=tmp_path / "whole")
    add, calls = reading.LayerStatistics.add, []

    def stop(self, *batch):
        calls.append(batch[2][0])
        if len(calls) == 12:
            raise Stopped
        add(self, *batch)

    monkeypatch.setattr(reading, "SECONDS", 0)
    monkeypatch.setattr(reading.LayerStatistics, "add", stop)
    with pytest.raises(Stopped):
        look(run_dir, "validation", folder=tmp_path / "cut")
    n_before = len(calls)
    look(run_dir, "validation", folder=tmp_path / "cut")
    # a batch that was cut short is read again, and none before it
    assert calls[n_before] <= calls[n_before - 1]
    assert calls[n_before] > 0
    monkeypatch.setattr(reading.LayerStatistics, "add", add)
    again = look(run_dir, "validation", folder=tmp_path / "uncut")
    assert again[1].n_tokens > whole[1].n_tokens
    for name in ("card.json", "inspect.html", *(f"{name}.csv" for name in TABLES)):
        cut, uncut = (tmp_path / folder / name for folder in ("cut", "uncut"))
        assert cut.read_bytes() == uncut.read_bytes(), name


def test_each_text_is_a_domain(run_dir, tmp_path):
    first, second = tmp_path / "cats.txt", tmp_path / "dogs.txt"
    first.write_text("the cat sat on a mat . " * 30)
    second.write_text("seven dogs ran past it . " * 30)
    look(run_dir, str(first), str(second))
    folder = run_dir / "inspection"
    for row in rows(folder / "experts.csv"):
        own = float(row["mass.cats"]) + float(row["mass.dogs"])
        assert own == pytest.approx(float(row["mass"]))
    contexts = rows(folder / "contexts.csv")
    assert {row["text"] for row in contexts} == {"cats", "dogs"}
    lifts = rows(folder / "lifts.csv")
    assert {row["low"] for row in lifts} == {""}  # each text is one document
    text = {"cats": first.read_text(), "dogs": second.read_text()}
    for row in contexts:
        whole = row["before"] + row["token"] + row["after"]
        assert whole.lstrip("'") in text[row["text"]]


def test_refuses_texts_that_it_cannot_read(run_dir, tmp_path):
    with pytest.raises(ValueError, match=r"texts=nope is no file, and no set; sets are .*lambada"):
        look(run_dir, "nope")
    short, torn = tmp_path / "short.txt", tmp_path / "torn.txt"
    short.write_text("")
    with pytest.raises(ValueError, match="has 0 tokens: too few"):
        look(run_dir, str(short))
    torn.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="is not UTF-8"):
        look(run_dir, str(torn))
    with pytest.raises(ValueError, match=r"is a folder without index.json"):
        look(run_dir, str(tmp_path))
    (tmp_path / "a").mkdir()
    for path in (torn, tmp_path / "a" / "torn.txt"):
        path.write_text("the cat sat")
    with pytest.raises(ValueError, match="two texts are named torn"):
        look(run_dir, str(torn), str(tmp_path / "a" / "torn.txt"))


def test_refuses_tokens_of_another_tokenizer(run_dir, tmp_path):
    cache = Path(cache_of(run_dir).removeprefix("paths.cache="))
    (own,) = cache.glob("tokens/nursery-validation-*")
    shutil.copytree(own, tmp_path / "tokens")
    assert look(run_dir, str(tmp_path / "tokens"), folder=tmp_path / "out")
    index = json.loads((own / "index.json").read_text())
    index["tokenizer_sha256"] = "0" * 64
    index.pop("checksum", None)
    (tmp_path / "tokens" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"tokens of another tokenizer \(00000000\) than"):
        look(run_dir, str(tmp_path / "tokens"))


@pytest.fixture
def command(monkeypatch, capsys):
    """command("RUN", ...): exit code, stdout, stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["experiments.inspect", *map(str, words)])
        code = 0
        try:
            inspect.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


def test_a_text_is_shown_token_by_token(run_dir, command):
    code, out, err = command(run_dir, cache_of(run_dir), "text=the cat sat", "top=2")
    assert (code, err) == (0, "")
    assert "blocks.0.ffn\n" in out
    assert "blocks.1.ffn\n" in out
    found = explain_text(run_dir, "the cat sat", [cache_of(run_dir)])
    _, peer = found.parts
    assert found.tokenizer.decode(found.ids[1:]) == "the cat sat"
    total = (peer.of_slots.sum(1) + peer.beside).numpy()
    np.testing.assert_allclose(total, peer.layer.numpy(), rtol=1e-5, atol=1e-5)
    assert f"{float(peer.layer[0]):+.3f}" in out


def test_a_text_goes_into_the_tables_that_are_there(run_dir, command):
    code, out, _ = command(run_dir, cache_of(run_dir), "text=the cat sat")
    assert code == 0
    assert "page: none" in out
    assert not (run_dir / "inspection").exists()
    text = "the cat", "seven dogs"
    code, out, _ = command(run_dir, cache_of(run_dir), f"text={text[0]}", "texts=validation")
    assert code == 0
    assert "page: " in out
    statistics = (run_dir / "inspection" / "statistics.npz").read_bytes()
    words = f"text={text[1]}", "layers=blocks.1.ffn"
    assert command(run_dir, cache_of(run_dir), *words)[0] == 0
    found = read_inspection(run_dir / "inspection")
    assert found.typed == {"typed 1": text[0], "typed 2": text[1]}
    assert (run_dir / "inspection" / "statistics.npz").read_bytes() == statistics
    lines, parts = found.tables["excerpts"], found.tables["parts"]
    named = parts.groupby(["layer", "text", "position"])[["gate", "part"]].sum()
    for layer, n in (("blocks.0.ffn", 1), ("blocks.1.ffn", 2)):
        typed = lines[lines["text"].str.startswith("typed") & (lines["layer"] == layer)]
        assert typed["text"].nunique() == n
        for _, line in typed.iterrows():
            total = named.loc[tuple(line[["layer", "text", "position"]])]
            assert total["part"] + line["others"] + line["beside"] == pytest.approx(
                line["part"], rel=1e-5, abs=1e-5
            )
    assert look(run_dir, "validation")  # what was added is no other inspection
    assert read_inspection(run_dir / "inspection").typed == found.typed


def test_the_text_that_a_run_was_trained_on_is_not_made_again(run_dir, tmp_path):
    """It is read on its held-out text, with its tokenizer."""
    cache = Path(read_record(run_dir / "record.json").config["paths"]["cache"])
    shutil.copytree(cache, tmp_path / "cache")
    tokens = tmp_path / "cache" / "tokens"
    for folder in tokens.glob("nursery-train-*"):
        shutil.rmtree(folder)
    cards = inspect_run(run_dir, (), [f"paths.cache={tmp_path / 'cache'}"], folder=tmp_path / "out")
    assert cards == look(run_dir)
    assert not list(tokens.glob("nursery-train-*"))
    assert list(tokens.glob("nursery-validation-*"))


def test_a_string_is_looked_for_in_the_texts(run_dir, command, tmp_path):
    text = tmp_path / "cats.txt"
    text.write_text("the cat sat on a mat . " * 30)
    code, out, _ = command(run_dir, cache_of(run_dir), f"texts={text}", "find=cat sat")
    assert code == 0
    assert re.search(r"blocks.1.ffn: ' ?cat sat' \d+ times in 1 documents", out)
    table = read_inspection(run_dir / "inspection").tables["strings"]
    assert set(table["layer"]) == {"blocks.0.ffn", "blocks.1.ffn"}
    assert table["share"].between(0, 1).all()
    assert table["low"].isna().all()  # one document


def test_a_run_with_a_patch_is_another_inspection(run_dir, command, tmp_path):
    path = tmp_path / "none.json"
    cache = [cache_of(run_dir)]
    patch_run(run_dir, path, tuple(cache), layer="blocks.1.ffn", removed=tuple(range(256)))
    assert command(run_dir, *cache)[0] == 0
    code, out, _ = command(run_dir, *cache, f"patch={path}", "texts=validation", "text=the cat")
    assert code == 0
    (folder,) = run_dir.glob("inspection@patch=none-*")
    assert f"page: {folder / 'inspect.html'}" in out
    found = read_inspection(folder)
    assert found.identity["patch"] == folder.name.removeprefix("inspection")
    excerpts = found.tables["excerpts"].query("layer == 'blocks.1.ffn'")
    assert (excerpts["part"] == 0).all()
    whole = read_inspection(run_dir / "inspection").tables["excerpts"]
    assert (whole.query("layer == 'blocks.1.ffn'")["part"] != 0).any()
    code, out, _ = command(
        run_dir, *cache, f"patch={path}", "text=dogs", f"out={run_dir}/inspection"
    )
    assert code == 0
    assert "page: none" in out


def test_the_command_prints_a_line_a_layer(run_dir, command):
    code, out, _ = command(run_dir, cache_of(run_dir))
    assert code == 0
    assert re.search(r"^blocks\.0\.ffn  Dense \*  +128 ", out, re.MULTILINE)
    assert re.search(r"^blocks\.1\.ffn  PEER  +256 ", out, re.MULTILINE)
    assert "* no router" in out
    assert f"tables: {run_dir / 'inspection'}" in out
    assert f"page: {run_dir / 'inspection' / 'inspect.html'}" in out
