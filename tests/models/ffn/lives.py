"""Tiny real runs of a layer: by the command, gone on with as text, grown, and beside another."""

import math

import torch

from experiments.finished.model import read_finished
from experiments.models.generation import generate
from experiments.models.sampling import Sampling
from experiments.points.planning import make_point
from experiments.records.record import read_record
from experiments.training.execute import execute
from tests.conftest import TINY

# of a run that starts from another: of these the weights say the sizes
_ROOMS = tuple(
    o for o in TINY if not o.startswith(("ladder.d_per", "ladder.d_head", "ladder.vocab"))
)


def by_the_command(run, tmp_path, *overrides):
    """The folder and the record of a run by `python -m experiments.run`, in tmp_path."""
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


def child_of(compose_raw, run_dir, *overrides):
    """The record of a run that starts from that one, in a folder beside it."""
    paths = (f"paths.results={run_dir.parent / 'children'}", f"paths.cache={_cache(run_dir)}")
    raw = compose_raw("init=run", f"init.path={run_dir}", "budget=1e9", *_ROOMS, *paths, *overrides)
    record = execute(make_point(raw))
    assert record.status == "done", record.error
    return record


def _cache(run_dir):
    return read_record(run_dir / "record.json").config["paths"]["cache"]
