"""Trunks and branches on real daemons: branches wait for their trunk, however it ends."""

import pytest

from experiments.language.trunks import make_trunks
from experiments.points.planning import make_point
from experiments.records import kept
from experiments.records.files import read_record
from experiments.sweep import many_runs
from experiments.sweep.queue import read_tasks
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.system.claims import read_events
from experiments.training.execute import execute
from tests.conftest import TINY
from tests.slurm.conftest import slurm, wait_for_the_queue, wait_until
from tests.slurm.slow import SLOW

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
WSD = ("optim.schedule=wsd", "optim.warmup_tokens=640")
RESOURCES = Slurm(cpus_per_task=1, signal_seconds=20)


@pytest.fixture
def branch(compose_raw, tmp_path):
    """branch("1e9", ...): a branch of that budget; branch=None: the same run from scratch."""

    def make(budget, *overrides, results="results", branch="trunk"):
        fixed = (
            "size=1", "sweep=s", *TINY, *WSD, SLOW, f"budget={budget}",
            "trainer.checkpoint_minutes=0.01", f"paths.results={tmp_path / results}",
            f"paths.cache={tmp_path / 'cache'}",
        )  # fmt: skip
        how = () if branch is None else (f"optim.branch_from={branch}",)
        return make_point(compose_raw(*fixed, *how, *overrides))

    return make


def test_branches_wait_for_their_trunk_and_equal_runs_from_scratch(branch, tmp_path):
    points = [branch("5e8"), branch("1e9")]
    (trunk,) = make_trunks(points)
    many_runs.run_sweep([point.raw for point in points], RESOURCES)
    sweep = trunk.run_dir.parent
    wait_until(lambda: {read_tasks(sweep)[p.run_id].detail for p in points} == {"(Dependency)"})
    submission_again = [branch("7.5e8").raw]  # while the trunk is queued or runs
    many_runs.run_sweep([*(p.raw for p in points), *submission_again], RESOURCES)
    wait_for_the_queue()
    states = {p.run_id: p for p in read_states(trunk.run_dir.parent)}
    assert {p.state for p in states.values()} == {"done"}
    assert len(states) == 4
    assert [e["event"] for e in read_events(trunk.run_dir)] == ["started", "done"]
    for point in points:
        alone = execute(branch(f"{point.config.budget:g}", results="alone", branch=None))
        record = read_record(point.run_dir / "record.json")
        assert record.trunk["n_steps"] == point.first_step
        assert (record.val_loss, record.train_loss) == (alone.val_loss, alone.train_loss)
    assert not kept.kept(trunk.run_dir)


def test_a_branch_of_a_cancelled_trunk_does_not_wait_without_end(branch):
    point = branch("1.5e9")
    (trunk,) = make_trunks([point])
    many_runs.run_sweep([point.raw], RESOURCES)
    wait_until(lambda: (trunk.run_dir / "last.ckpt").exists())
    slurm("scancel", read_tasks(trunk.run_dir.parent)[trunk.run_id].job)
    wait_for_the_queue()
    states = {p.run_id: p for p in read_states(trunk.run_dir.parent)}
    assert states[trunk.run_id].state == "interrupted"
    (event,) = [e for e in read_events(point.run_dir) if e["event"] == "interrupted"]
    why = f"its trunk {trunk.run_id} has not come to step {point.first_step}"
    assert why in event["why"]
    many_runs.run_sweep([point.raw], RESOURCES)  # goes on with both
    wait_for_the_queue()
    assert {p.state for p in read_states(trunk.run_dir.parent)} == {"done"}
    assert [e["event"] for e in read_events(trunk.run_dir)][-3:] == [
        "interrupted",
        "started",
        "done",
    ]
