"""Tables in columns of two processes on real daemons: preempted, requeued, ended by one process."""

import pytest

from experiments.points.planning import make_point
from experiments.sweep import many_runs
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.system.claims import read_events
from experiments.system.table_files import FOLDER
from experiments.training.execute import execute
from tests.conftest import TINY
from tests.slurm.conftest import slurm, wait_for_the_queue, wait_until
from tests.slurm.slow import SLOW_PEER
from tests.training.test_ddp import KEYS, _result

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("cluster")]
STEPS = (
    20  # in float32 two processes part from one by more than rounding soon after (docs/ranks.md)
)
LONG = 400.0  # seconds, on a machine that has other work
RUN = (
    "model=peer", SLOW_PEER, "+model.seconds=1", *KEYS, "size=1", *TINY, "ladder.d_per_layer=32",
    "trainer.checkpoint_minutes=0", "logger.log_every_n_steps=1", "optim.table_gradient=rows",
    "sweep=s",
)  # fmt: skip


def test_two_processes_are_preempted_and_requeued_and_one_ends_the_run(
    compose_raw, tmp_path, monkeypatch
):
    def raw(results, *more):
        paths = (f"paths.results={tmp_path / results}", f"paths.cache={tmp_path / 'cache'}")
        plan = make_point(compose_raw(*RUN, "budget=1e10", *more)).plan
        budget = STEPS * plan.batch_tokens * plan.cost.training_flops
        return compose_raw(*RUN, f"budget={budget}", *paths, *more)

    with monkeypatch.context() as patched:
        patched.setattr("tests.slurm.slow.sleep", lambda seconds: None)
        alone = make_point(raw("alone"))
        execute(alone)
    here = ("--nodelist=n1", "--exclusive")
    queue = Slurm(
        cpus_per_task=1, signal_seconds=20, setup="export MASTER_ADDR=127.0.0.1", extra=here
    )
    many_runs.run_sweep([raw("results", "trainer.devices=2", "trainer.table_ranks=all")], queue)
    run_dir = tmp_path / "results" / "s" / alone.run_id

    def events(kind):
        return [event for event in read_events(run_dir) if event["event"] == kind]

    wait_until(lambda: (run_dir / "last.ckpt").exists(), LONG)
    slurm("sbatch", "--partition=high", *here, "--output=/dev/null", "--wrap", "sleep 1")
    (first,) = wait_until(lambda: events("interrupted"), LONG)
    wait_until(lambda: len(events("started")) == 2, LONG)  # Slurm has requeued it
    history = run_dir / "history.csv"
    wait_until(lambda: len(history.read_text().splitlines()) > first["step"] + 2, LONG)
    slurm("scancel", "--signal=USR1", slurm("squeue", "--noheader", "--format=%i"))
    wait_for_the_queue(LONG)
    (_, second) = events("interrupted")
    assert 0 < first["step"] < second["step"] < STEPS
    files = {path.name for path in (run_dir / FOLDER).glob("*/*")}
    assert files == {"0-of-2.ckpt", "1-of-2.ckpt"}
    many_runs.run_sweep([raw("results")], Slurm(cpus_per_task=1))
    wait_for_the_queue(LONG)
    (point,) = read_states(run_dir.parent)
    assert (point.state, point.n_stops) == ("done", 2)
    assert len(events("started")) == 3
    (losses, record), (found, of_it) = map(_result, (alone.run_dir, run_dir))
    assert found[:5] == pytest.approx(losses[:5], rel=1e-6)
    assert found == pytest.approx(losses, rel=1e-4)
    assert of_it.val_loss == pytest.approx(record.val_loss, rel=1e-4)
