"""Two gloo ranks train what one process trains, at the same global batch."""

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.language.app import APP
from experiments.language.trunks import make_trunks
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY

KEYS = ("model.d_key=8", "model.n_heads=2", "model.top_k=4", "n_experts=64")
MODELS = {
    "dense": ("model=dense",),
    "none": ("model=none",),
    "peer": ("model=peer", *KEYS),  # with its batch norm, over the tokens of both ranks
    "peer_glu": ("model=peer", "model.glu=true", "model.query_norm=layer", *KEYS),
    "peer_options": (
        "model=peer", *KEYS, "n_experts=72", "trunk.ffn_blocks=all", "model.share_experts=false",
        "model.d_query_rank=6", "model.output_gate=true", "model.shared_width_factor=1",
        "model.blocks_share_keys=true",
    ),
    "pkm": ("model=pkm", *KEYS),
    "moe_fine": ("model=moe_fine", "n_experts=16", "model.top_k=2"),  # balanced by the load of both
}  # fmt: skip
STEPS = 20


def _run_ranks(n_ranks, *module):
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}",
            "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "-m", *module,
        ],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _result(folder):
    """A run's history, a loss a step, and its record."""
    with (folder / "history.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return losses, read_record(folder / "record.json")


@pytest.fixture(scope="module")
def overrides(compose_raw, tmp_path_factory):
    """overrides(name, n_ranks, sweep): of a run of STEPS steps."""
    top = tmp_path_factory.mktemp("ranks")

    def of(name, n_ranks, sweep):
        fixed = (*TINY, *MODELS[name], "size=2", "logger.log_every_n_steps=1")
        plan = make_point(compose_raw(*fixed, "budget=1e9")).plan
        budget = STEPS * plan.batch_tokens * plan.cost.training_flops
        paths = (f"paths.results={top}", f"paths.cache={top / 'cache'}")
        return (*fixed, f"budget={budget}", *paths, f"sweep={sweep}", f"trainer.devices={n_ranks}")

    of.top = top
    return of


@pytest.fixture(scope="module")
def alone(compose_raw, overrides):
    """alone(name): the folder of the run by one process, which the first call trains."""

    @functools.cache
    def of(name):
        point = make_point(compose_raw(*overrides(name, 1, "alone")))
        execute(point)
        return point.run_dir

    return of


def _train_all(raws):
    """By two ranks, one after another."""
    raws = list(raws)
    configs = Path(raws[0]["paths"]["results"]) / "configs.json"
    configs.write_text(json.dumps(raws))
    _run_ranks(2, "tests.training.ranks", str(configs))


def test_the_same_loss_curves(alone, compose_raw, overrides):
    """In one test, so that one process of the suite trains them all."""
    # the first by the command that a user types, the others by one start of their ranks
    first, *others = MODELS
    _run_ranks(2, "experiments.run", *overrides(first, 2, "together"))
    _train_all(compose_raw(*overrides(name, 2, "together")) for name in others)
    for name in MODELS:
        losses, record = _result(alone(name))
        together, of_two = _result(overrides.top / "together" / record.run_id)
        assert len(losses) == len(together) == STEPS, name
        # sums of float32 in another order, and what 20 steps of training make of that: the first
        # step's rounding is 1e-7, and top-k and AdamW's division may enlarge it
        assert together[:5] == pytest.approx(losses[:5], rel=1e-6), name
        assert together == pytest.approx(losses, rel=1e-4), name
        assert of_two.val_loss == pytest.approx(record.val_loss, rel=1e-4), name


@pytest.mark.night
@pytest.mark.parametrize("name", ["peer", "dense", "moe_fine"])
def test_compiled_ranks_train_what_they_train_without(alone, compose_raw, overrides, name):
    _train_all([compose_raw(*overrides(name, 2, "compiled"), "trainer.compile=true")])
    eager, record = _result(alone(name))
    compiled, record_of_compiled = _result(overrides.top / "compiled" / record.run_id)
    assert record_of_compiled.compile_seconds > 0
    assert compiled[:5] == pytest.approx(eager[:5], rel=1e-6)  # as above
    assert compiled == pytest.approx(eager, rel=1e-4)


@pytest.mark.night
def test_ranks_go_on_with_more_experts_as_one_process_does(alone, compose_raw, overrides):
    grown = (
        "init=run", f"init.path={alone('peer')}", "init.how=bias", "init.train=all",
        "n_experts=256", "ladder.d_per_layer=null", "ladder.lr_d_model=64",
    )  # fmt: skip

    def of(n_ranks, sweep):  # the layer is the weights' own
        return [o for o in overrides("peer", n_ranks, sweep) if o not in MODELS["peer"]]

    point = make_point(compose_raw(*of(1, "grown"), *grown))
    execute(point)
    _train_all([compose_raw(*of(2, "grown_together"), *grown)])
    losses, record = _result(point.run_dir)
    together, of_two = _result(overrides.top / "grown_together" / point.run_id)
    assert record.init["late"]["0"] == pytest.approx(of_two.init["late"]["0"], rel=1e-4)
    assert record.before["validation"]["loss"] == pytest.approx(
        of_two.before["validation"]["loss"], rel=1e-4
    )
    assert together[:5] == pytest.approx(losses[:5], rel=1e-5)
    assert together == pytest.approx(losses, rel=1e-4)


@pytest.mark.night
def test_a_branch_of_two_ranks_is_their_run_from_scratch(compose_raw, overrides):
    wsd = (*overrides("peer", 2, "branches"), "optim.schedule=wsd", "optim.warmup_tokens=640")
    scratch, raw = compose_raw(*wsd), compose_raw(*wsd, "optim.branch_from=trunk")
    branch = make_point(raw)
    (trunk,) = make_trunks([branch])
    APP.enter([branch])
    _train_all([trunk.raw, raw, scratch])
    (_, expected), (_, record) = map(_result, (make_point(scratch).run_dir, branch.run_dir))
    assert (record.trunk["run_id"], record.trunk["n_steps"]) == (trunk.run_id, branch.first_step)
    assert record.val_loss == expected.val_loss
