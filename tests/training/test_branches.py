"""A branch of a trunk is the run from scratch, to the bit; a trunk goes on where it ended."""

import shutil

import pytest
import torch

from experiments import kept
from experiments.execute import execute
from experiments.point import make_point
from experiments.sweep.submission import enter_branches
from experiments.sweep.trunks import trunks_of
from experiments.system.interruption import Interrupted
from experiments.training.checkpoints import LAST
from tests.conftest import TINY, Killed, kill_at

WSD = ("optim.schedule=wsd", "optim.warmup_tokens=640", "logger.log_every_n_steps=7")  # 5 steps
LAYERS = {
    "dense": ("model=dense",),
    "moe_fine": ("model=moe_fine", "n_experts=8"),
    "peer": ("model=peer", "n_experts=64"),
    "peer by rows": ("model=peer", "n_experts=64", "optim.table_gradient=rows"),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(compose_raw, tmp_path, cache):
    """make("budget=1e9", ...): a branch; make(..., branch=None): the same run from scratch."""

    def point(*overrides, folder="results", branch="trunk"):
        paths = (f"paths.results={tmp_path / folder}", f"paths.cache={cache}")
        how = () if branch is None else (f"optim.branch_from={branch}",)
        fixed = ("size=1", "budget=6e8", "sweep=s")
        return make_point(compose_raw(*fixed, *TINY, *WSD, *how, *paths, *overrides))

    return point


def weights(point):
    state = torch.load(point.run_dir / LAST, weights_only=True)
    return state["state_dict"], state["optimizer_states"][0]["state"]


def assert_same(one, other):
    for a, b in zip(weights(one), weights(other), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            tensors = value.items() if isinstance(value, dict) else [("", value)]
            for key, tensor in tensors:
                same = b[name][key] if key else b[name]
                assert torch.equal(tensor.nan_to_num(), same.nan_to_num()), (name, key)


def rows(point):
    """Of history.csv, without speeds and seconds."""
    text = (point.run_dir / "history.csv").read_text()
    return [line.split(",")[:5] for line in text.splitlines()]


def trained_trunk(*branches):
    (trunk,) = trunks_of(branches)
    enter_branches(branches)
    assert execute(trunk).status == "done"
    return trunk


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_branches_equal_runs_from_scratch_to_the_bit(make, layer):
    budgets = [(*LAYERS[layer], f"budget={budget}") for budget in ("6e8", "1e9")]
    branches = [make(*how) for how in budgets]
    trunk = trained_trunk(*branches)
    for how, branch in zip(budgets, branches, strict=True):
        alone = make(*how, branch=None)
        assert alone.run_id != branch.run_id
        expected, record = execute(alone), execute(branch)
        assert (record.val_loss, record.train_loss) == (expected.val_loss, expected.train_loss)
        assert record.n_tokens == expected.n_tokens
        assert_same(branch, alone)
        assert rows(branch) == rows(alone)
        taken = branch.first_step
        assert record.trunk == {
            "run_id": trunk.run_id,
            "n_steps": taken,
            "flops": branch.plan.flops_of(taken),
            "own_steps": branch.plan.n_steps - taken,
            "own_flops": branch.own_flops,
        }
    assert not kept.kept(trunk.run_dir)  # no branch waits any more
