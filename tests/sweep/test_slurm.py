"""What is asked of sbatch; with real daemons: tests/slurm."""

import json
import re
from dataclasses import asdict, replace

import pytest

from experiments.sweep import submission, task
from experiments.sweep.many_runs import run_sweep
from experiments.sweep.queue import last_used, read_tasks
from experiments.sweep.queues import slurm
from experiments.sweep.queues.slurm import Slurm
from experiments.sweep.states import read_states
from experiments.sweep.submission import Submission
from experiments.system import signatures
from tests.conftest import REPOSITORY


def test_resources_become_sbatchs_options():
    resources = Slurm(
        partition="gpu", time="2:00:00", max_parallel=3, gpus_per_node=4, extra=("--exclusive",)
    )
    options = resources.options(devices=4, num_nodes=2, n_tasks=10)
    assert options == [
        "--partition=gpu", "--time=2:00:00", "--gpus-per-node=4", "--nodes=2",
        "--ntasks-per-node=4", "--signal=USR1@120", "--array=0-9%3", "--requeue",
        "--open-mode=append", "--exclusive",
    ]  # fmt: skip


def given(name="20260101-000000-000000", **settings):
    resources = {k: v for k, v in asdict(Slurm(**settings)).items() if k != "watch"}
    return Submission(
        name=name, run_ids=("a", "b"), code="c", devices=1, num_nodes=1, resources=resources
    )


def submit(sweep_dir, **settings):
    return slurm.give(sweep_dir, given(**settings), Slurm(**settings))


@pytest.fixture
def slurm_commands(programs):
    """Programs: sbatch keeps its arguments, squeue prints the file `out`, sacct fails."""
    keep = 'cd "$(dirname "$0")"; printf "%s\\n" "$@" >asked; env >environment; echo 28'
    folder = programs(sbatch=keep, squeue='cat "$(dirname "$0")/out"', sacct="exit 1")
    (folder / "out").write_text("")
    return folder


def test_a_submission_of_an_earlier_version_is_understood(tmp_path, slurm_commands):
    path = tmp_path / "slurm" / "20251101-120000-000000.json"
    path.parent.mkdir()
    path.write_text(
        '{"name": "20251101-120000-000000", "run_ids": ["a", "b"], "code": "c", "devices": 1, '
        '"num_nodes": 1, "resources": {"partition": "gpu", "account": null, "qos": null, '
        '"time": "2:00:00", "cpus_per_task": 4, "mem": null, "gpus_per_node": 1, '
        '"max_parallel": 2, "signal_seconds": 60, "extra": ["--exclusive"], "setup": "x"}}'
    )
    (slurm_commands / "out").write_text(
        f"28|1|experiments-{tmp_path.name}-20251101-120000-000000|PENDING|(JobHeldUser)\n"
    )
    task = read_tasks(tmp_path)["b"]
    assert (task.job, task.detail, task.release) == (
        "28_1", "JobHeldUser", "scontrol release 28_1",
    )  # fmt: skip
    assert task.log == tmp_path / "slurm" / "28_1.out"
    with pytest.raises(ValueError, match=r"run setup='x' extra=\['--exclusive'\] as you"):
        last_used(tmp_path)  # it has no signature
    found = last_used(tmp_path, trusted=True)
    assert found == Slurm(
        partition="gpu", time="2:00:00", cpus_per_task=4, gpus_per_node=1, max_parallel=2,
        signal_seconds=60, extra=("--exclusive",), setup="x",
    )  # fmt: skip


DAMAGES = {
    "empty": "", "no JSON": "{", "no submission": "{}", "a list": "[]", "nested": "[" * 100_000,
    "no resources": '{"name": "x", "run_ids": [], "resources": null}',
}  # fmt: skip


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_submission_is_named_and_the_others_are_used(
    tmp_path, slurm_commands, capsys, text
):
    submit(tmp_path, partition="old")
    path = tmp_path / "slurm" / "20260202-000000-000000.json"
    path.write_text(text)
    names = [
        f"experiments-{tmp_path.name}-{name}" for name in ("20260101-000000-000000", path.stem)
    ]
    lines = [f"28|{i}|{name}|PENDING|(Priority)\n" for i, name in enumerate(names)]
    (slurm_commands / "out").write_text("".join(lines) + "29|0|another|RUNNING|node\n")
    submission._warn.cache_clear()
    assert {run_id: task.job for run_id, task in read_tasks(tmp_path).items()} == {"a": "28_0"}
    assert last_used(tmp_path).partition == "old"
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path} is damaged (not a submission: ")
    assert err.endswith("); move it away; the same command submits its points again\n")
    assert err.count("\n") == 1
    assert [row.job for row in slurm.queued(tmp_path)] == ["28_0", "28_1"]  # for `cancel`
    (tmp_path / "slurm" / "20260101-000000-000000.json").unlink()
    with pytest.raises(ValueError, match="has no submission that can be read; give the command"):
        last_used(tmp_path)


def _by_hand(folder, text):
    (folder / "slurm").mkdir()
    path = folder / "slurm" / "20260101-000000-000000.json"
    path.write_text(text)
    return path


def _without_key(path):
    signatures.key_path().unlink()


def _other_key(path):
    signatures.key_path().write_bytes(b"x" * 32)


def _key_of_a_group(path):
    signatures.key_path().chmod(0o640)


def _altered(path):
    path.write_text(path.read_text().replace("module load x", "touch planted"))


def _by_a_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))
    _altered(path)


@pytest.fixture
def own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


STRANGE = (_without_key, _other_key, _key_of_a_group, _altered, _by_a_link)


@pytest.mark.parametrize(
    "settings", [{"setup": "module load x"}, {"extra": ("--comment=module load x",)}]
)
@pytest.mark.parametrize("change", STRANGE)
def test_what_another_may_have_written_is_not_given_to_a_shell(
    change, settings, tmp_path, slurm_commands, own_key, capsys
):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    submit(sweep, **settings)
    assert last_used(sweep) == Slurm(**settings)
    (path,) = (sweep / "slurm").glob("*.json")
    (key,) = settings
    assert f"from {path}: {key}=" in capsys.readouterr().out
    change(path)
    asked = f"{path} asks a shell and the queue to run {key}=.* as you, and is not signed by you"
    with pytest.raises(ValueError, match=f"{asked}.*add --trust .*, or --local"):
        last_used(sweep)
    assert last_used(sweep, trusted=True) is not None
    assert f"from {path}: {key}=" in capsys.readouterr().out


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o666])
def test_a_clone_s_setup_is_refused_whatever_its_mode(mode, tmp_path, slurm_commands, own_key):
    path = _by_hand(tmp_path, json.dumps(asdict(given(setup="touch planted"))))
    path.chmod(mode)
    with pytest.raises(ValueError, match="run setup='touch planted' as you, and is not signed"):
        last_used(tmp_path)
    signatures.signature(b"")  # with a key of one's own too
    with pytest.raises(ValueError, match=f"key: {signatures.key_path()}"):
        last_used(tmp_path)


def test_a_moved_sweep_stays_signed_and_plain_resources_need_no_signature(
    tmp_path, slurm_commands, own_key, capsys
):
    old = tmp_path / "old"
    old.mkdir()
    submit(old, setup="module load x")
    assert last_used(old.rename(tmp_path / "new")).setup == "module load x"
    plain = tmp_path / "plain"
    plain.mkdir()
    _by_hand(plain, json.dumps(asdict(given(partition="gpu", time="1:00:00"))))
    assert last_used(plain) == Slurm(partition="gpu", time="1:00:00")


def test_where_no_key_can_be_kept_a_submission_is_written_without_a_signature(
    tmp_path, slurm_commands, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    submit(tmp_path, partition="gpu")
    (path,) = (tmp_path / "slurm").glob("*.json")
    assert json.loads(path.read_text())["signature"] is None
    assert last_used(tmp_path).partition == "gpu"


def test_two_commands_that_make_the_key_at_once_have_one(own_key, monkeypatch):
    make = signatures._make_key

    def both():
        make()
        first = signatures.key_path().read_bytes()
        make()
        assert signatures.key_path().read_bytes() == first

    monkeypatch.setattr(signatures, "_make_key", both)
    given = signatures.signature(b"a")
    assert signatures.is_signed(b"a", given)
    for content, other in (
        (b"b", given),
        (b"a", given[:-1]),
        (b"a", None),
        (b"a", 3),
        (b"a", "é\ud800"),
    ):
        assert not signatures.is_signed(content, other)
    assert signatures.key_path().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in signatures.key_path().parent.iterdir()] == ["signing.key"]


def test_a_path_has_no_replacement_symbols_for_sbatch(tmp_path, slurm_commands):
    sweep = tmp_path / "100%u %j"
    sweep.mkdir()
    submit(sweep)
    asked = (slurm_commands / "asked").read_text().splitlines()
    assert f"--output={tmp_path}/100%%u %%j/slurm/%A_%a.out" in asked
    bad = tmp_path / "back\\slash"
    bad.mkdir()
    with pytest.raises(ValueError, match="sbatch takes no backslash in a path"):
        submit(bad)
    assert list(bad.iterdir()) == []


@pytest.fixture
def planned(make):
    """planned("trainer.devices=4", ...): a point that is planned for GPUs."""

    def plan(*overrides):
        point = make("ladder.batch_size=8", *overrides)
        return replace(point, device=replace(point.device, accelerator="cuda"))

    return plan


GPU_OPTIONS = [
    {"gpus_per_node": 4}, {"gpus_per_node": 0}, {"extra": ("--gpus-per-task=1",)},
    {"extra": ("--gpus-per-node", "a100:4")}, {"extra": ("-G", "4")}, {"extra": ("-G4",)},
    {"extra": ("--gres=gpu:a100:4",)}, {"extra": ("--gres", "gpu:4")},
    {"extra": ("--exclusive", "--tres-per-task=gres/gpu:1")},
]  # fmt: skip
OTHER_OPTIONS = [
    {}, {"extra": ("--exclusive",)}, {"extra": ("--gres=shard:1",)},
    {"extra": ("--gpu-bind=none",)},
]  # fmt: skip


@pytest.mark.parametrize("settings", GPU_OPTIONS, ids=str)
def test_a_submission_that_asks_for_gpus_is_taken(planned, slurm_commands, settings):
    Slurm(**settings).check([planned("trainer.devices=4")], 1)


@pytest.mark.parametrize("settings", OTHER_OPTIONS, ids=str)
def test_one_that_would_train_on_a_cpu_is_refused(planned, slurm_commands, settings, monkeypatch):
    points = [planned("trainer.devices=4")]
    message = (
        r"dense size=1 .* planned for a GPU, .* set hydra\.launcher\.gpus_per_node=4 \(0: this"
    )
    for refuse in (Slurm(**settings).plan, lambda points: Slurm(**settings).check(points, 1)):
        with pytest.raises(ValueError, match=message):
            refuse(points)
    monkeypatch.setenv("SBATCH_GRES", "gpu:4")  # as a site's profile may set
    Slurm(**settings).check(points, 1)


def test_fewer_gpus_than_processes_of_a_node_are_refused(planned, slurm_commands):
    with pytest.raises(ValueError, match=r"gpus_per_node=1 is below trainer\.devices=4"):
        Slurm(gpus_per_node=1).check([planned("trainer.devices=4")], 1)


def test_zero_gpus_a_node_is_not_asked_of_sbatch():
    options = Slurm(gpus_per_node=0).options(devices=1, num_nodes=1, n_tasks=1)
    assert not [option for option in options if "gpu" in option]


@pytest.mark.parametrize(("gb", "seconds"), [(0.1, 120), (6, 120), (26, 320), (100, 1060)])
def test_the_warning_is_long_enough_for_the_checkpoint(planned, gb, seconds):
    point = planned()
    memory = replace(point.plan.memory, weights=int(gb * 1e9 / 4), moments=int(gb * 3e9 / 4))
    large = replace(point, plan=replace(point.plan, memory=memory))
    queue = Slurm(gpus_per_node=1)
    assert queue.warning([point, large]) == seconds
    options, words, *_ = queue.plan([point, large])
    assert f" --signal=USR1@{seconds} " in options
    assert words == (
        f"{seconds} s before the time limit the runs save and are put back: checkpoints of up to "
        f"{gb} GB, written at 100 MB/s or faster"
    )
    assert Slurm(signal_seconds=600).warning([large]) == 600


@pytest.fixture
def submitted(make, slurm_commands, monkeypatch):
    """submitted(Slurm(...), "seed=1", ...): a sweep of that point, given to sbatch."""

    def give(queue, *overrides):
        monkeypatch.setattr("experiments.sweep.many_runs.prepare_all", lambda points: None)
        point = make(*overrides)
        run_sweep([point.raw], queue)
        return point

    return give


@pytest.mark.parametrize(
    ("settings", "overrides", "code"),
    [
        ({"gpus_per_node": 1}, (), 1),
        ({"gpus_per_node": 1}, ("trainer.accelerator=cpu",), 0),
        ({}, (), 0),
    ],
    ids=["gpu", "cpu by choice", "no gpu asked for"],
)
def test_a_task_that_finds_no_gpu_where_one_was_planned_ends_at_once(
    submitted, sweep, slurm_commands, monkeypatch, capsys, settings, overrides, code
):
    point = submitted(Slurm(cpus_per_task=1, **settings), *overrides)
    environment = (slurm_commands / "environment").read_text()
    assert "EXPERIMENTS_SIGNAL_SECONDS=120\n" in environment
    (path,) = (sweep / "slurm").glob("*.json")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("experiments.training.execute.execute", lambda *_, **__: Done())
    assert task.main([str(path), "0"]) == code
    (state,) = read_states(sweep)
    assert state.run_id == point.run_id
    if code:
        why = "planned for a GPU, and this torch is made without CUDA (CUDA_VISIBLE_DEVICES is '0')"
        assert f"error: {why}\n" in capsys.readouterr().err
        assert (state.state, state.detail) == ("failed", why)
    else:
        assert state.state == "waiting"


class Done:
    """A run's result, as far as a task reads it."""

    error, status = None, "done"


def test_a_submission_says_what_it_leaves_open(make, planned):
    (note,) = Slurm(gpus_per_node=1).plan([planned()])[2:]
    assert note.startswith("note: hydra.launcher.cpus_per_task is not set, so each process has ")
    for settings in ({"cpus_per_task": 4}, {"extra": ("--cpus-per-gpu=8",)}, {"extra": ("-c4",)}):
        assert Slurm(gpus_per_node=1, **settings).plan([planned()])[2:] == []
        assert Slurm(**settings).plan([make()])[2:] == []
        (note,) = Slurm(gpus_per_node=1, **settings).plan([make()])[2:]
        assert note.endswith("name the cards to plan for them: cluster=h100 (conf/cluster)")


@pytest.mark.parametrize("script", ["point", "run"])
def test_ranks_may_leave_while_the_first_one_scores(script):
    """A cluster's WaitTime would end it, seconds after the first rank has left."""
    text = (REPOSITORY / "sbatch" / f"{script}.sh").read_text()
    assert re.search(r"^exec srun .*--wait=0 ", text, re.MULTILINE)
