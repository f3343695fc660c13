"""Trunks of a sweep: which there are, when they are trained, and what is told of them."""

from dataclasses import replace

import pytest

from experiments.config.schema import Continual
from experiments.data.stream import DomainStream
from experiments.language.app import APP
from experiments.language.places import located, relocatable
from experiments.language.plan_table import plan_table
from experiments.language.trunks import make_trunks
from experiments.points.parts import find_parts
from experiments.points.planning import make_point, read_point
from experiments.records import kept
from experiments.records.files import write_record
from experiments.sweep.entering import entered
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.planning import choose, plan_points
from experiments.sweep.queues.local import Local
from experiments.sweep.restore import read_raws
from experiments.sweep.states import read_states
from experiments.system.claims import claimed, read_events
from tests.records.test_record import record

WSD = ("optim.schedule=wsd", "optim.warmup_tokens=640", "optim.branch_from=trunk")  # 5 steps


@pytest.fixture
def branch(make):
    """branch(20, ...): a branch of 20 steps."""

    def point(n_steps, *overrides):
        raw = make(*WSD, *overrides).raw
        return make_point({**raw, "budget": make_point(raw).plan.count_flops(n_steps)})

    return point


def ended(point, status="done", n_steps=None):
    n_steps = n_steps or point.plan.n_steps
    write_record(
        point.run_dir,
        record(run_id=point.run_id, status=status, n_steps=n_steps, n_tokens=n_steps * 512),
    )


def test_points_that_differ_in_budget_and_decay_share_a_trunk(branch):
    points = [
        branch(20),
        branch(40),
        branch(40, "optim.decay_tokens=1280", "optim.final_lr=0"),
        branch(40, "optim.decay_shape=1-sqrt"),
        branch(40, "ladder.lr=1e-3"),
        branch(40, "seed=1"),
    ]
    assert len({point.run_id for point in points}) == 6
    assert [p.branch.trunk_id == points[0].branch.trunk_id for p in points] == [True] * 4 + [
        False
    ] * 2
    assert [p.first_step for p in points] == [15, 31, 29, 31, 31, 31]
    trunks = make_trunks(points)
    assert sorted(trunk.plan.n_steps for trunk in trunks) == [31, 31, 31]
    assert {t.run_id for t in trunks} == {p.branch.trunk_id for p in points}
    alone = make_point({**points[0].raw, "optim": {**points[0].raw["optim"], "branch_from": None}})
    assert alone.run_id != points[0].run_id


BAD = [
    ("optim.decay_tokens=12800", r"is 20 steps of 128.*5 steps of warm-up and 100 of decay;"),
    ("optim.warmup_tokens=12800", r"and optim.warmup_tokens=12800 ask for 100 steps.* 4 of decay;"),
    ("optim.decay=1", r"5 steps of warm-up and 164 of decay; lower them, or raise budget"),
    ("optim.branch_from=results/s/0123456789ab", "is not the trunk of this point, whose run id is"),
]


@pytest.mark.parametrize(("how", "why"), BAD)
def test_what_no_branch_can_be_is_refused(branch, how, why):
    with pytest.raises(ValueError, match=why):
        branch(20, how)


def test_what_depends_on_the_budget_before_the_decay_is_refused(branch):
    draft = read_point(branch(20).raw)
    config = draft.config

    def check(config):
        changed = replace(draft, config=config, parts=find_parts(config))
        for part in changed.parts:
            part.refuse(changed)

    continual = Continual(replay=0.0, top_rows=None, background_steps=64, distil=0.0, l2=0.0)
    with pytest.raises(ValueError, match=r"optim.branch_from=trunk with weights to start from"):
        check(replace(config, continual=continual))
    domains = dict.fromkeys(("a", "b"), config.data.corpus)
    stream = DomainStream(base=config.data.corpus, domains=domains, order=("a", "b"))
    with pytest.raises(ValueError, match=r"optim.branch_from=trunk with data=stream"):
        check(replace(config, data=replace(config.data, corpus=stream)))


def test_the_plan_has_each_trunk_once_and_the_saving(branch):
    points = [branch(20), branch(40)]
    table = plan_table(points, 1e9).splitlines()
    (trunk,) = make_trunks(points)
    assert table[2].endswith(f"  trunk {trunk.run_id}")
    assert table[3].endswith(f"  from step 15 of trunk {trunk.run_id}")
    step = trunk.plan.count_flops(1)
    spent = (31 + (20 - 15) + (40 - 31)) * step
    (saving,) = [line for line in table if "saved" in line]
    assert saving.startswith(f"1 trunk of {31 * step:.3g} FLOPs and 2 branches of {14 * step:.3g}")
    assert saving.endswith(f"would be {60 * step:.3g}: 25 % saved".replace(" %", "%"))
    assert f"3 runs, {spent:.3g} FLOPs" in "\n".join(table[-3:])


def test_a_trunk_is_run_as_long_as_a_branch_waits_for_it(branch):
    short, long = branch(20), branch(40)
    (trunk,) = make_trunks([short, long])

    def names(*points):
        todo = choose(plan_points([point.raw for point in points]))
        steps = {short.run_id: "short", long.run_id: "long", trunk.run_id: "trunk"}
        lengths = [p.plan.n_steps for p in todo.points if p.is_trunk]
        return sorted(steps[p.run_id] for p in todo.run), lengths

    assert names(short) == (["short", "trunk"], [15])
    assert names(short, long) == (["long", "short", "trunk"], [31])
    assert names(short, long, trunk) == (["long", "short", "trunk"], [31])  # as retry asks
    ended(trunk, n_steps=15)  # of a smaller budget: it goes on
    assert names(short, long) == (["long", "short", "trunk"], [31])
    assert names(short) == (["short"], [])
    kept.kept_path(trunk.run_dir, 31).touch()
    assert names(short, long) == (["long", "short"], [])
    ended(long)
    kept.kept_path(trunk.run_dir, 31).unlink()
    (trunk.run_dir / "record.json").unlink()
    assert names(short, long) == (["short", "trunk"], [15])  # no longer than what is left needs
    ended(short)
    assert names(short, long) == ([], [])


def test_a_checkpoint_stays_until_the_last_branch_of_it_has_ended(tmp_path):
    (tmp_path / "last.ckpt").write_text("weights")
    starts = kept.Starts(tmp_path)
    assert 5 not in starts
    for run_id in ("aaa", "bbb"):
        kept.enter(tmp_path, run_id, 5)  # bbb of another sweep
    kept.enter(tmp_path, "ccc", 9)
    assert 5 in starts
    assert 6 not in starts
    for n_steps in (5, 9):
        kept.keep(tmp_path / "last.ckpt", n_steps)
        kept.keep(tmp_path / "last.ckpt", n_steps)  # again after a kill
    assert sorted(kept.kept(tmp_path)) == [5, 9]
    kept.release(tmp_path, "aaa")
    assert sorted(kept.kept(tmp_path)) == [5, 9]
    kept.release(tmp_path, "bbb")
    assert sorted(kept.kept(tmp_path)) == [9]
    assert kept.usable(tmp_path, 8) == []
    assert kept.usable(tmp_path, 12) == [(9, kept.kept_path(tmp_path, 9))]
    assert sorted(p.name for p in tmp_path.glob("*.*")) == ["last.ckpt", "step-9.ckpt"]


def test_the_manifest_and_status_tell_trunks_from_branches(branch, sweep):
    points = [branch(20), branch(40)]
    with entered(points):
        pass
    (trunk,) = make_trunks(points)
    states = {p.run_id: p for p in read_states(sweep)}
    assert set(states) == {trunk.run_id, *(p.run_id for p in points)}
    assert states[trunk.run_id].label == "dense size=1 trunk seed=0"
    short = states[points[0].run_id]
    assert short.label.endswith(f"seed=0 from trunk {trunk.run_id}")
    assert short.detail == f"for step 15 of its trunk {trunk.run_id}"
    assert sum(p.planned_flops for p in states.values()) == pytest.approx(
        trunk.plan.count_flops(45)
    )
    assert {p.run_id for p in map(make_point, read_raws(APP, sweep)[0])} == set(states)
    ended(points[0])
    assert {p.run_id: p for p in read_states(sweep)}[short.run_id].done_flops == pytest.approx(
        trunk.plan.count_flops(5)
    )


def test_a_manifest_moves_with_a_trunk_that_it_names(branch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (trunk,) = make_trunks([branch(20)])
    named = branch(20, f"optim.branch_from=results/s/{trunk.run_id}")
    raw = relocatable(named.raw, named.run_dir.parent)
    assert raw["optim"]["branch_from"] == trunk.run_id
    again = make_point(located(raw, named.run_dir.parent))
    assert again.run_id == named.run_id == branch(20).run_id
    assert again.branch.folder.resolve() == trunk.run_dir.resolve()
    with pytest.raises(ValueError, match=r"no checkpoint of step 15.*kept steps: none"):
        choose([named])


def test_a_local_sweep_trains_a_trunk_once_for_all_budgets(branch, sweep, capsys):
    raws = [branch(n, "trainer.n_threads=1").raw for n in (20, 32)]
    run_sweep(raws, Local(n_workers=2))
    out = capsys.readouterr().out
    assert "3 runs, 2 at a time" in out
    assert "[3/3]" in out
    points = {p.run_id: p for p in read_states(sweep)}
    assert {p.state for p in points.values()} == {"done"}
    (trunk,) = make_trunks([make_point(raw) for raw in raws])
    assert [e["event"] for e in read_events(trunk.run_dir)] == ["started", "done"]
    for raw in raws:
        events = read_events(make_point(raw).run_dir)
        assert [e["event"] for e in events] == ["started", "branched", "done"]
    assert not kept.kept(trunk.run_dir)
    run_sweep(raws, Local(n_workers=2))
    assert "2 of 2 runs are done already" in capsys.readouterr().out


def test_branches_of_a_trunk_that_failed_or_diverged_say_so(branch, sweep, capsys):
    point = branch(20)
    (trunk,) = make_trunks([point])
    ended(trunk, "diverged", n_steps=8)
    run_sweep([point.raw], Local(n_workers=1))
    (state,) = [p for p in read_states(sweep) if p.run_id == point.run_id]
    why = f"not run: its trunk {trunk.run_id} diverged at step 8"
    assert (state.state, state.detail, state.step) == ("diverged", why, 8)
    assert why in capsys.readouterr().out
    with claimed(trunk.run_dir):
        assert not choose([point]).run
