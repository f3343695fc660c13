"""Tiny real runs of a layer: by the command, gone on with as text, grown, and beside another."""

import math
import sys

import pytest
import torch

from experiments import export
from experiments.finished.model import read_finished
from experiments.models.generation import generate
from experiments.models.sampling import Sampling
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import TINY, Killed, kill_at

# of a run that starts from another: of these the weights say the sizes
_ROOMS = tuple(
    o for o in TINY if not o.startswith(("ladder.d_per", "ladder.d_head", "ladder.vocab"))
)


def by_the_command(run, tmp_path, *overrides):
    """Folder and the record of a run by `python -m experiments.run`, in tmp_path."""
    code, _, err = run("size=2", "budget=2e9", *TINY, *overrides)
    assert code == 0, err
    (path,) = (tmp_path / "results" / "default").glob("*/record.json")
    record = read_record(path)
    assert record.status == "done", record.error
    assert record.val_loss < 0.8 * math.log(270)
    assert record.n_params == make_point(record.config).plan.cost.n_params
    return path.parent, record


def assert_text_goes_on_as_without_a_cache(run_dir):
    _, vocabulary, model = read_finished(run_dir, [])
    ids = vocabulary.tokenizer().encode("the cat").ids
    greedy = Sampling(temperature=0.0, top_p=1.0)
    found = list(generate(model, ids, n_tokens=12, end=None, sampling=greedy))
    for token in found:
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)


def assert_a_broken_run_goes_on_to_the_bit(compose_raw, tmp_path, *overrides, at=10):
    """A run that is killed at a step and taken up again has the losses of one that is not, which
    is returned.
    """

    def make(folder, *more):
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={tmp_path / 'cache'}")
        return make_point(compose_raw("size=2", "budget=1e9", *TINY, *overrides, *paths, *more))

    whole = make("whole")
    expected = execute(whole)
    assert expected.status == "done", expected.error
    with pytest.raises(Killed):
        execute(make("broken", "trainer.checkpoint_minutes=0"), kill_at(at))
    result = execute(make("broken"))
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    return whole


def exported_as_it_is(run_dir, tmp_path, monkeypatch):
    """Run's export, read by transformers with its code; it has the run's logits."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(sys, "argv", ["export", str(run_dir), str(tmp_path / "out")])
    export.main()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True
    )
    _, _, model = read_finished(run_dir, [])
    tokens = torch.arange(4, 24)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), rtol=1e-4, atol=1e-4)
    return theirs


def child_of(compose_raw, run_dir, *overrides):
    """Record of a run that starts from that one, in a folder beside it."""
    paths = (f"paths.results={run_dir.parent / 'children'}", f"paths.cache={_cache(run_dir)}")
    raw = compose_raw("init=run", f"init.path={run_dir}", "budget=1e9", *_ROOMS, *paths, *overrides)
    record = execute(make_point(raw))
    assert record.status == "done", record.error
    return record


def _cache(run_dir):
    return read_record(run_dir / "record.json").config["paths"]["cache"]
