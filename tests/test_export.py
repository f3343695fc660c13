"""`python -m experiments.export`: from a finished run to a folder, and what it refuses."""

import subprocess
import sys

import pytest
import torch

from experiments import export
from experiments.export import export_run
from experiments.finished.model import read_finished
from experiments.init.exported import check_export, exported_state
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.system.disk import abandoned
from experiments.training.execute import execute
from tests.conftest import SMALL_PEER, TINY, run_cache
from tests.rounding import assert_rounding


def test_a_trained_peer_model_leaves_and_comes_back(trained, tmp_path, capsys):
    run_dir = trained(*SMALL_PEER, "data.mask_documents=true")
    form = export_run(run_dir, tmp_path / "out", [run_cache(run_dir)])
    assert form.architecture == "ExpertsForCausalLM"
    assert "MB to " in capsys.readouterr().out
    _, _, model = read_finished(run_dir, [run_cache(run_dir)])
    shape = check_export(tmp_path / "out")
    state = exported_state(tmp_path / "out", shape)
    assert shape.name == "peer"
    assert model.state_dict().keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    # statistics of queries are not what they start as
    assert not torch.equal(state["blocks.0.ffn.query_norm.norm.running_mean"], torch.zeros(16))
    card = (tmp_path / "out" / "README.md").read_text()
    record = read_record(run_dir / "record.json")
    assert f"| held-out loss, nats/token | {record.val_loss:.4f} |" in card
    assert f"| training tokens | {record.n_tokens:,} |" in card
    assert record.run_id in card
    assert "attention that ends where a document does" in " ".join(card.split())


@pytest.mark.levels
def test_a_trained_dense_model_is_an_arcee_with_equal_logits(trained, tmp_path):
    transformers = pytest.importorskip("transformers")
    run_dir = trained("model=dense")
    assert export_run(run_dir, tmp_path / "out", [run_cache(run_dir)]).is_native
    _, _, model = read_finished(run_dir, [run_cache(run_dir)])
    theirs = transformers.ArceeForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = torch.randint(0, 270, (2, 32))
    with torch.no_grad():
        assert_rounding(theirs(tokens).logits, model(tokens), n_blocks=1)


def test_a_run_that_starts_from_an_export_has_its_loss(trained, compose_raw, tmp_path):
    """At a rate of almost nothing: the weights, the trunk and the tokenizer are the export's."""
    run_dir = trained(*SMALL_PEER, "model.query_norm=layer")
    export_run(run_dir, tmp_path / "out", [run_cache(run_dir)])
    own = [o for o in TINY if not o.startswith(("ladder.d_", "ladder.vocab"))]
    start = ("init=hf", f"init.path={tmp_path / 'out'}", "init.how=keep", "init.train=all")
    paths = (run_cache(run_dir), f"paths.results={tmp_path / 'results'}")
    point = make_point(compose_raw(*start, "budget=1e9", "optim.lr=1e-9", *own, *paths))
    assert point.transformer.tie_head is False
    record, before = execute(point), read_record(run_dir / "record.json")
    assert record.status == "done", record.error
    assert record.n_params == before.n_params
    assert record.val_loss == pytest.approx(before.val_loss, abs=1e-4)


def test_the_command_says_what_it_wrote_and_refuses_in_one_line(trained, command, tmp_path):
    run_dir = trained("model=moe", "n_experts=4")
    code, out, err = command(export, run_dir, tmp_path / "out", run_cache(run_dir))
    assert (code, err) == (0, "")
    assert "trust_remote_code=True; not causal: it scores texts and can't generate" in out
    code, out, err = command(export, run_dir, tmp_path / "caf\udce9")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has bytes that are not UTF-8; type it again" in err
    code, out, err = command(export, run_dir, "/dev/null/x")
    assert (code, out) == (1, "")  # before the model is read
    assert err.startswith("error: /dev/null can't be written: Not a directory; correct that path")
    assert "last checkpoint" not in err


def test_without_safetensors_nothing_is_read(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        RuntimeError, match=r"pip install safetensors, or pip install -e '\.\[hf\]'"
    ):
        export_run(tmp_path, tmp_path / "out")


KILLED = """
import os, signal, sys
from pathlib import Path
from experiments.export import main
plain = Path.rename
def rename(self, target):
    if ".partial-" in self.name:  # the earlier export has its other name by now
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, target)
Path.rename = rename
main()
"""


@pytest.mark.night
def test_what_a_killed_export_left_goes_and_the_earlier_one_is_put_back(trained, command, tmp_path):
    run_dir = trained("model=none")
    out = tmp_path / "out"
    assert command(export, run_dir, out, run_cache(run_dir))[0] == 0
    weights = (out / "model.safetensors").read_bytes()
    words = [sys.executable, "-c", KILLED, str(run_dir), str(out), run_cache(run_dir)]
    for _ in range(2):
        assert subprocess.run(words, capture_output=True).returncode == -9
    assert not out.exists()
    kinds = sorted(path.name.rpartition(".")[2].partition("-")[0] for path in tmp_path.iterdir())
    assert kinds == ["old", "partial"]  # of the second kill: it put the first one's back
    (kept,) = abandoned(out, "old")
    assert (kept / "model.safetensors").read_bytes() == weights
    assert command(export, run_dir, out, run_cache(run_dir))[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (out / "model.safetensors").read_bytes() == weights
