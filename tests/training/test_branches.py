"""A branch of a trunk is the run from scratch, to the bit; a trunk goes on where it ended."""

from dataclasses import replace

import pytest
import torch

from experiments.language.app import APP
from experiments.language.trunks import make_trunks
from experiments.optim.schedule import check_steps
from experiments.points.parts.branch import BRANCH_NAME
from experiments.points.planning import make_point
from experiments.points.training_part import DivergedError
from experiments.records import kept
from experiments.records.files import write_record
from experiments.system.interruption import Interrupted
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute, planned_record
from experiments.training.starting import find_checkpoint
from tests.conftest import Killed, kill_at

WSD = ("optim.schedule=wsd", "optim.warmup_tokens=640", "logger.log_every_n_steps=7")  # 5 steps
LAYERS = {
    "dense": ("model=dense",),
    "moe_fine": ("model=moe_fine", "n_experts=8"),
    "peer": ("model=peer", "n_experts=64"),
    "peer by rows": ("model=peer", "n_experts=64", "optim.table_gradient=rows"),
}


@pytest.fixture
def make(make):
    """make(20, ...): a branch of 20 steps; branch=None: the same run from scratch."""
    whole = make

    def point(n_steps, *overrides, folder="results", branch="trunk"):
        how = () if branch is None else (f"optim.branch_from={branch}",)
        of_run = ("size=1", "budget=1e9", "sweep=s", *WSD, *how, *overrides)
        budget = whole(*of_run).plan.count_flops(n_steps)
        return whole(*of_run, f"budget={budget}", folder=folder)

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
    (trunk,) = make_trunks(branches)
    APP.enter(branches)
    record = execute(trunk)
    assert record.status == "done", record.error
    return trunk


@pytest.mark.parametrize("layer", LAYERS)
def test_branches_equal_runs_from_scratch_to_the_bit(make, layer):
    branches = [make(n, *LAYERS[layer]) for n in (20, 32)]
    trunk = trained_trunk(*branches)
    assert sorted(kept.kept(trunk.run_dir)) == [15, 25]  # a step before 20 % of the steps
    for branch in branches:
        alone = make(branch.plan.n_steps, *LAYERS[layer], branch=None)
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
            "flops": branch.plan.count_flops(taken),
            "own_steps": branch.plan.n_steps - taken,
            "own_flops": branch.own_flops,
        }
    assert not kept.kept(trunk.run_dir)  # no branch waits any more


def test_a_branch_on_streamed_text_reads_on_where_the_trunk_was(make, streamed):
    branch = make(20, *streamed)
    trained_trunk(branch)
    expected, record = execute(make(20, *streamed, branch=None)), execute(branch)
    assert record.trunk["n_steps"] == 15
    assert record.epochs is None  # of a stream
    assert record.val_loss == expected.val_loss


@pytest.mark.night
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_branch_is_the_compiled_run_from_scratch(make, eager_backend):
    compiled = ("trainer.compile=true", *LAYERS["peer"])
    branch = make(20, *compiled)
    trained_trunk(branch)
    expected, record = execute(make(20, *compiled, branch=None)), execute(branch)
    assert record.compile_seconds > 0
    assert (record.trunk["n_steps"], record.val_loss) == (15, expected.val_loss)


def test_a_killed_trunk_and_a_killed_branch_change_nothing(make):
    every = "trainer.checkpoint_minutes=0"
    branch, alone = make(32, every), make(32, branch=None)
    expected = execute(alone)
    (trunk,) = make_trunks([branch])
    APP.enter([branch])
    for point, at in ((trunk, 14), (branch, 28)):
        with pytest.raises(Killed):
            execute(point, kill_at(at))
        record = execute(make_point(point.raw))
        assert record.status == "done"
    assert (record.val_loss, record.trunk["n_steps"]) == (expected.val_loss, branch.first_step)
    assert_same(branch, alone)


def test_a_larger_budget_goes_on_with_the_trunk(make):
    trunk = trained_trunk(make(20))
    longer = make(32)
    again = trained_trunk(longer)
    assert again.run_id == trunk.run_id
    steps = [int(line[0]) for line in rows(again)[1:]]
    assert steps == [7, 14, 21]  # each once: the second part went on where the first had ended
    assert execute(longer).val_loss == execute(make(32, branch=None)).val_loss


def test_a_budget_that_the_trunk_has_passed_takes_more_steps_itself(make):
    first, last = make(20), make(40)
    trunk = trained_trunk(first, last)
    between = make(30)
    execute(first)
    record = execute(between)  # no checkpoint of step 23 was kept, and that of 15 is gone
    assert record.trunk["n_steps"] == 0
    assert record.val_loss == execute(make(30, branch=None)).val_loss
    assert sorted(kept.kept(trunk.run_dir)) == [31]  # for the last, which is to come


def test_a_trunk_may_be_named_by_its_folder(make, tmp_path):
    trunk = trained_trunk(make(20))
    elsewhere = make(20, folder="other", branch=trunk.run_dir)
    assert elsewhere.run_id == make(20).run_id
    assert execute(elsewhere).trunk["n_steps"] == elsewhere.first_step
    with pytest.raises(ValueError, match=rf"not the trunk of this point.*{trunk.run_id}"):
        make(20, branch=tmp_path)


def test_what_becomes_of_a_branch_whose_trunk_did_not_come_so_far(make):
    branch = make(20)
    (trunk,) = make_trunks([branch])
    with pytest.raises(Interrupted, match=rf"trunk {trunk.run_id} has not come to step 15"):
        execute(branch)
    failed = replace(planned_record(trunk), status="failed", error="no space")
    write_record(trunk.run_dir, failed)
    assert f"its trunk {trunk.run_id} failed" in execute(branch).error
    write_record(trunk.run_dir, replace(failed, status="diverged", n_tokens=11 * 128))
    record = execute(branch)
    assert (record.status, record.val_loss) == ("diverged", None)
    assert record.error == f"not run: its trunk {trunk.run_id} diverged at step 11"


def saved(folder, name, *, whole=True):
    """A checkpoint file that is whole, or one that was cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    torch.save({"state_dict": {}, "optimizer_states": [], "global_step": 0, "loops": {}}, path)
    if not whole:
        path.write_bytes(path.read_bytes()[:100])
    return path


def beginning_of(branch):
    """Checkpoint that the run begins at, and the steps of it that were the trunk's."""
    branch.run_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoint(branch)
    columns = [part.columns(branch) for part in branch.parts]
    return checkpoint, next(c["trunk"]["n_steps"] for c in columns if c)


def test_a_branch_begins_at_the_nearest_whole_checkpoint_that_leads_to_its_start(make):
    branch = make(20)
    folder = branch.branch.folder
    early, late = saved(folder, "step-7.ckpt"), saved(folder, "step-15.ckpt")
    saved(folder, "step-16.ckpt")
    assert beginning_of(branch) == (late, 15)
    saved(folder, "step-15.ckpt", whole=False)
    with pytest.warns(UserWarning, match=r"step-15\.ckpt is damaged .*; it is ignored"):
        assert beginning_of(branch) == (early, 7)
    saved(folder, "step-7.ckpt", whole=False)
    with pytest.warns(UserWarning, match="is damaged"):
        assert beginning_of(branch) == (None, 0)
    named = make(20, branch=folder)
    why = "no whole checkpoint of step 15 or before"
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(RuntimeError, match=why):
        beginning_of(named)


def test_a_branch_that_has_begun_goes_on_with_the_steps_that_it_noted(make):
    branch = make(20)
    own = saved(branch.run_dir, LAST)
    saved(branch.branch.folder, "step-15.ckpt")
    assert beginning_of(branch) == (own, 0)  # no note: from its first
    for text, taken in (('{"trunk": "x", "n_steps": 7}', 7), ("{", 15), ('{"n_steps": null}', 15)):
        (branch.run_dir / BRANCH_NAME).write_text(text)
        assert beginning_of(branch) == (own, taken)


@pytest.mark.parametrize(
    ("status", "n_steps", "how"),
    [
        ("done", 14, Interrupted),
        ("done", 15, None),
        ("done", 16, None),
        ("diverged", 14, DivergedError),
        ("diverged", 15, None),
        ("failed", 16, RuntimeError),
    ],
)
def test_a_trunk_without_checkpoints_must_have_come_to_the_start(make, status, n_steps, how):
    branch = make(20)
    (trunk,) = make_trunks([branch])
    error = None if status == "done" else "no space"
    n_tokens = n_steps * 128
    record = replace(planned_record(trunk), status=status, error=error, n_tokens=n_tokens)
    write_record(trunk.run_dir, record)
    if how is None:
        assert beginning_of(branch) == (None, 0)
    else:
        with pytest.raises(how, match="trunk"):
            beginning_of(branch)


@pytest.mark.parametrize(
    ("warmup", "decay", "branch", "why"),
    [
        (5, 15, False, None),
        (5, 16, False, r"ask for 5 steps of warm-up and 16 of decay; lower"),
        (1, 18, True, None),
        (1, 19, True, r"ask for 1 steps of warm-up and 19 of decay, which leave no step to a tr"),
        (2, 19, True, r"ask for 2 steps of warm-up and 19 of decay; lower"),
        (1, 19, False, None),
    ],
)
def test_a_run_has_room_for_warm_up_decay_and_a_trunk(make, warmup, decay, branch, why):
    """Of 20 steps. A trunk is left one step or more, and a branch one before its decay."""
    config = make(20, branch="trunk" if branch else None).config
    tokens = {"warmup_tokens": warmup * 128.0, "decay_tokens": decay * 128.0}
    config = replace(config, optim=replace(config.optim, **tokens))
    if why is None:
        check_steps(config.optim, config.budget, 20, 128)
    else:
        with pytest.raises(ValueError, match=why):
            check_steps(config.optim, config.budget, 20, 128)
