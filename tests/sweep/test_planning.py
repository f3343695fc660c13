"""Which points of a sweep run, and which are done, somebody else's or refused."""

import pytest

from experiments.records.files import read_record, write_record
from experiments.sweep import manifest
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.planning import choose, plan_points, set_aside_diverged
from experiments.sweep.queues.local import Local
from experiments.sweep.states import read_states
from experiments.system.claims import claimed
from experiments.training.execute import execute
from tests.records.test_record import record


def test_retry_chooses(make):
    points = {name: make(f"seed={i}") for i, name in enumerate(("new", "failed", "diverged"))}
    points["new"].run_dir.mkdir(parents=True)  # begun, and has no record
    for name in ("failed", "diverged"):
        write_record(points[name].run_dir, record(run_id=points[name].run_id, status=name))

    def run(retry):
        again = [make(f"seed={i}", f"retry={retry}") for i in range(3)]
        return {p.config.seed for p in choose(again).run}

    assert run("failed") == {0, 1}
    assert run("none") == {0}
    assert run("all") == {0, 1, 2}
    with claimed(points["new"].run_dir):
        assert run("failed") == {1}


def test_a_diverged_run_starts_from_its_first_step_if_asked(make, sweep, capsys):
    hot = ("ladder.lr=1e3", "optim.grad_clip=1e9", "budget=2e10")
    point = make(*hot)
    assert execute(point).status == "diverged"
    run_one(make(*hot).raw)
    assert "diverged before" in capsys.readouterr().out
    run_one(make(*hot, "retry=all").raw)
    assert {p.name for p in (point.run_dir / "diverged-1").iterdir()} == {
        "last.ckpt.old",
        "record.json.old",
    }
    assert read_record(point.run_dir / "record.json").status == "diverged"


@pytest.mark.parametrize("retry", ["failed", "all"])
def test_a_run_that_ended_since_it_was_chosen_is_not_set_aside(make, retry):
    """Another process has finished it meanwhile: finished work is never done again."""
    point = make(f"retry={retry}")
    (chosen,) = choose([point]).run
    done = record(run_id=point.run_id)
    write_record(point.run_dir, done)
    set_aside_diverged([chosen])
    assert read_record(point.run_dir / "record.json") == done
    assert not list(point.run_dir.glob("diverged-*"))


def test_a_diverged_run_that_another_process_has_is_left_to_it(make):
    point = make("retry=all")
    diverged = record(run_id=point.run_id, status="diverged")
    write_record(point.run_dir, diverged)
    with claimed(point.run_dir):
        set_aside_diverged([point])
    assert read_record(point.run_dir / "record.json") == diverged
    set_aside_diverged([point])
    assert not (point.run_dir / "record.json").exists()


def test_records_from_elsewhere_are_adopted_and_seen(make, sweep, capsys):
    """A checkout has a study's records and neither its manifest nor its checkpoints."""
    points = [make(), make("seed=1")]
    for point in points:
        write_record(point.run_dir, record(run_id=point.run_id))
    kept = []
    for _ in range(2):
        run_sweep([point.raw for point in points], Local(n_workers=1))
        assert "2 of 2 runs are done already" in capsys.readouterr().out
        kept.append((sweep / manifest.MANIFEST_NAME).read_text())
    assert kept[0] == kept[1]
    states = {p.run_id: p.state for p in read_states(sweep)}
    assert states == {point.run_id: "done" for point in points}


def test_two_points_that_are_one_run_are_refused(make):
    raw = dict(make().raw)
    with pytest.raises(ValueError, match="two points of the sweep are one run"):
        plan_points([raw, {**raw, "sweep": "s"}])


def test_ranks_need_slurm_or_torchrun(make):
    raw = make("trainer.devices=2").raw
    with pytest.raises(ValueError, match=r"use hydra/launcher=slurm, or start single runs"):
        run_sweep([raw], Local(n_workers=1))
    with pytest.raises(ValueError, match="must be a multiple of the 3 ranks"):
        make("trainer.devices=3")
