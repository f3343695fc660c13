"""Two gloo ranks train what one process trains, at the same global batch."""

import csv
import json
import os
import subprocess
import sys

import pytest

from experiments.point import make_point
from tests.conftest import REPOSITORY, TINY

KEYS = ("model.d_key=8", "model.n_heads=2", "model.top_k=4", "n_experts=64")
MODELS = {
    "dense": ("model=dense",),
    "none": ("model=none",),
    "peer": ("model=peer", *KEYS),  # with its batch norm, over the tokens of both ranks
    "peer_glu": ("model=peer", "model.glu=true", "model.query_norm=layer", *KEYS),
    "pkm": ("model=pkm", *KEYS),
    "moe_fine": ("model=moe_fine", "n_experts=16", "model.top_k=2"),  # balanced by the load of both
}
STEPS = 40


def _train(tmp_path, cache, overrides, n_ranks):
    """The run's history: a loss a step, and its record."""
    module = ["-m", "experiments.run", "size=2", *TINY, *overrides, f"sweep=ranks{n_ranks}"]
    module += [f"paths.results={tmp_path}", f"paths.cache={cache}"]
    module += ["logger.log_every_n_steps=1", f"trainer.devices={n_ranks}"]
    launcher = [sys.executable]
    if n_ranks > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={n_ranks}"]
        launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"
    done = subprocess.run(
        [*launcher, *module],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (tmp_path / f"ranks{n_ranks}").glob("*/record.json")
    with (record.parent / "history.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return losses, json.loads(record.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_loss_curve(tmp_path, cache, compose_raw, name):
    overrides = MODELS[name]
    plan = make_point(compose_raw("size=2", "budget=1e9", *TINY, *overrides)).plan
    budget = STEPS * plan.batch_tokens * plan.cost.training_flops
    overrides = (*overrides, f"budget={budget}")
    alone, record = _train(tmp_path, cache, overrides, 1)
    together, record_of_two = _train(tmp_path, cache, overrides, 2)
    assert len(alone) == len(together) == STEPS
    assert record["run_id"] == record_of_two["run_id"]
    # sums of float32 in another order, and what 40 steps of training make of that: the first
    # step's rounding is 1e-7, and top-k and AdamW's division may enlarge it
    assert together[:5] == pytest.approx(alone[:5], rel=1e-6)
    assert together == pytest.approx(alone, rel=1e-4)
    assert record_of_two["val_loss"] == pytest.approx(record["val_loss"], rel=1e-4)


@pytest.mark.parametrize("way", ["rows", "fused"])
def test_gradients_that_ddp_can_not_carry_are_refused(compose_raw, way):
    raw = compose_raw(
        "model=peer", *KEYS, *TINY, "size=2", "budget=1e9", "trainer.devices=2",
        f"optim.table_gradient={way}", "optim.grad_clip=null",
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"table_gradient={way} with 2 ranks: DDP averages"):
        make_point(raw)
