"""Finished runs, trained once for all tests, and runs that start from them."""

import functools

import pytest
import torch

from experiments.points.planning import make_point
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import TINY

# what a run has that starts from weights, which say its shape
STARTED = tuple(o for o in TINY if not o.startswith(("ladder.d_", "ladder.vocab_size")))
KEYS = ("n_experts=64", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
PARENTS = {
    "dense": (),
    "peer": ("model=peer", *KEYS),  # batch-normalised, in block 0 of two
    "pkm": ("model=pkm", *KEYS, "model.share_keys=false"),
    "moe": ("model=moe_fine", "n_experts=8", "model.top_k=1"),
    "moe_two": ("model=moe_fine", "n_experts=8", "model.top_k=2", "model.glu=true"),
    "other": ("model=peer", *KEYS, "seed=1"),
}


def finish(point):
    """Record of the run, which has to end well."""
    record = execute(point)
    assert record.status == "done", record.error
    return record


def weights_of(point):
    """Model's own of the last checkpoint."""
    state = torch.load(point.run_dir / LAST)["state_dict"]
    return {n.removeprefix("model."): v for n, v in state.items() if n.startswith("model.")}


@pytest.fixture(scope="session")
def run_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def parent(compose_raw, run_cache, tmp_path_factory):
    """parent("peer"): the point of a finished run, and its record; both are for reading alone."""
    paths = (f"paths.results={tmp_path_factory.mktemp('parents')}", f"paths.cache={run_cache}")

    @functools.cache
    def make(name):
        point = make_point(compose_raw("size=2", "budget=2e9", *TINY, *paths, *PARENTS[name]))
        return point, finish(point)

    return make


@pytest.fixture
def child(compose_raw, parent, run_cache, tmp_path):
    """child("peer", ...): the point of a run that starts from that parent, or from a folder."""

    def make(name, *overrides, folder="children"):
        path = parent(name)[0].run_dir if name in PARENTS else name
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={run_cache}")
        fixed = ("init=run", f"init.path={path}", "budget=1.01e9", *STARTED, *paths)
        return make_point(compose_raw(*fixed, *overrides))

    return make
