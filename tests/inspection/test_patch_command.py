"""`python -m experiments.inspect patch`, and its file in evaluate, generate and export."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

from experiments import evaluate, export, generate, inspect
from experiments.finished import model as finished
from experiments.finished.model import read_finished
from experiments.init.finished_run import FinishedRun
from experiments.inspection.editing.patch import read_patch
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import TINY

LAYERS = ("trunk.ffn_blocks=[1]", "n_experts=64", "model.d_key=8", "model.n_heads=2")


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
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def command(monkeypatch, capsys, trained):
    """command(module, "RUN", ...): exit code, stdout, stderr; the run's cache is named."""
    cache = f"paths.cache={read_record(trained / 'record.json').config['paths']['cache']}"

    def call(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words), cache])
        try:
            module.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def all_removed(run_dir, command, tmp_path):
    """A patch that leaves nothing of the layer."""
    path = tmp_path / "none.json"
    code, out, err = command(inspect, "patch", run_dir, path, "layer=blocks.1.ffn", "remove=[0-63]")
    assert (code, err) == (0, "")
    assert out == f"blocks.1.ffn (PEER, 64 experts): removes 64\npatch: {path}\n"
    return path


def test_results_with_a_patch_are_beside_those_without(run_dir, command, all_removed):
    words = (evaluate, run_dir, "eval=[validation]", "evaluation.max_tokens=320")
    assert command(*words)[0] == 0
    before = read_record(run_dir / "record.json")
    code, out, _ = command(*words, f"patch={all_removed}")
    assert code == 0
    record = read_record(run_dir / "record.json")
    mark = read_patch(all_removed, run_dir, record).label
    (name,) = before.evaluations
    assert list(record.evaluations) == [name, name + mark]
    assert record.evaluations[name] == before.evaluations[name]
    assert record.evaluations[name + mark]["loss"] != before.evaluations[name]["loss"]
    assert name + mark in out
    assert replace(record, evaluations={}) == replace(before, evaluations={})
    with pytest.MonkeyPatch.context() as no_model:
        no_model.setattr(finished, "build_model", None)  # all is there already
        for more in ((), (f"patch={all_removed}",)):
            assert command(*words, *more)[0] == 0
    assert command(*words)[1].count("@patch=") == 1


def test_the_weights_are_named_by_the_hash_that_others_have(run_dir, all_removed):
    made = read_patch(all_removed, run_dir, read_record(run_dir / "record.json"))
    assert made.weights == FinishedRun(path=str(run_dir)).digest(run_dir)


def test_a_text_is_gone_on_with_by_the_edited_model(run_dir, command, all_removed, tmp_path):
    content = json.loads(all_removed.read_text())
    (layer,) = content["layers"]
    ones = {"w_down": [100.0] * 32, "w_up": [100.0 * (-1) ** i for i in range(32)]}
    loud = {"remove": [], "add": [{"expert": i, "rows": ones} for i in range(64)]}
    path = tmp_path / "loud.json"
    path.write_text(json.dumps({**content, "layers": [{**layer, **loud}]}))
    plain = command(generate, run_dir, "the cat", "max_tokens=20")
    edited = command(generate, run_dir, "the cat", "max_tokens=20", f"patch={path}")
    assert plain[0] == edited[0] == 0
    assert plain[1] != edited[1]
    assert command(generate, run_dir, "the cat", "max_tokens=20")[1] == plain[1]


def test_an_export_is_of_the_edited_model_and_says_so(run_dir, command, all_removed, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    folder, plain = tmp_path / "edited", tmp_path / "plain"
    assert command(export, run_dir, folder, f"patch={all_removed}")[0] == 0
    assert command(export, run_dir, plain)[0] == 0
    edited, whole = (safetensors.load_file(f / "model.safetensors") for f in (folder, plain))
    (name,) = (n for n in whole if not torch.equal(edited[n], whole[n]))
    assert name.endswith("w_up")
    assert not edited[name].any()
    card = " ".join((folder / "README.md").read_text().split())
    assert "**Its experts were edited after training**: patch=none-" in card
    assert "blocks.1.ffn (PEER, 64 experts): removes 64. Numbers below are of the model" in card
    assert "edited after training" not in (plain / "README.md").read_text()
    assert json.loads((folder / "export.json").read_text())["patch"].startswith("@patch=none-")
    # neither takes the other's place
    for at, words in ((plain, (f"patch={all_removed}",)), (folder, ())):
        code, _, err = command(export, run_dir, at, *words)
        assert code == 2
        assert "is an export of the run" in err
    assert command(export, run_dir, folder, f"patch={all_removed}")[0] == 0


def test_what_cannot_be_used_is_said_in_one_line_before_a_model_is_made(
    run_dir, command, all_removed, tmp_path, monkeypatch
):
    torn, other, beyond = (tmp_path / f"{name}.json" for name in ("torn", "other", "beyond"))
    content = json.loads(all_removed.read_text())
    torn.write_text(json.dumps(content)[:-9])
    other.write_text(json.dumps({**content, "run_id": "f" * 12}))
    beyond.write_text(all_removed.read_text().replace("63]", "64]"))
    monkeypatch.setattr(finished, "build_model", None)
    monkeypatch.setattr(torch, "load", None)
    for module, words in (
        (evaluate, (run_dir, "eval=[validation]")),
        (generate, (run_dir, "the")),
        (export, (run_dir, tmp_path / "new")),
        (inspect, ("patch", run_dir, tmp_path / "new.json", "remove=[1]")),
    ):
        for path, message in (
            (torn, f"{torn} is no patch that can be used: "),
            (other, f"{other} is a patch of the run ffffffffffff, and {run_dir} is "),
            (beyond, "expert 64 is not of blocks.1.ffn, which has 0 to 63"),
            (tmp_path / "none", "does not exist; name the file of a patch"),
        ):
            code, _, err = command(module, *words, f"patch={path}")
            assert code == 2
            assert message in err
            assert err.count("\n") == 1


def test_weights_that_are_others_are_refused_before_anything_is_computed(
    run_dir, command, all_removed, monkeypatch, tmp_path
):
    content = json.loads(all_removed.read_text())
    path = tmp_path / "old.json"
    path.write_text(json.dumps({**content, "weights": "0" * 64}))
    for module, words in (
        (evaluate, (run_dir, "eval=[validation]")),
        (generate, (run_dir, "the")),
        (export, (run_dir, tmp_path / "new")),
    ):
        code, _, err = command(module, *words, f"patch={path}")
        assert code == 2
        assert "the patch was made for other weights (00000000) of" in err
    assert not (tmp_path / "new").exists()
    assert not read_record(run_dir / "record.json").evaluations


def test_edits_are_made_on_top_of_each_other_and_from_another_run(run_dir, command, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    one = "layer=blocks.1.ffn"
    assert command(inspect, "patch", run_dir, first, one, "remove=[3]", "swap=[1:2]")[0] == 0
    words = ("add=[5:60]", f"from={run_dir}", f"patch={first}")
    code, out, _ = command(inspect, "patch", run_dir, second, *words)
    assert code == 0
    assert "removes 1, swaps 1 pair, adds 1" in out
    code, out, _ = command(inspect, "patch", run_dir, second)
    assert (code, out) == (0, "blocks.1.ffn (PEER, 64 experts): removes 1, swaps 1 pair, adds 1\n")
    record, _, model = read_finished(run_dir, [_cache(run_dir)])
    up = model.blocks[1].ffn.w_up
    before = up.detach().clone()
    read_patch(second, run_dir, record).change(model)
    assert torch.equal(up[[1, 2, 5]], before[[2, 1, 60]])
    assert not up[3].any()
    code, _, err = command(
        inspect, "patch", run_dir, tmp_path / "x.json", "remove=[3]", f"patch={first}"
    )
    assert code == 2
    assert "expert 3 of blocks.1.ffn is in two edits (remove and remove)" in err


def _cache(run_dir):
    return f"paths.cache={read_record(run_dir / 'record.json').config['paths']['cache']}"
